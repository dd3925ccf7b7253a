"""The worker process: its loop, and the engines that carry a plan out."""
