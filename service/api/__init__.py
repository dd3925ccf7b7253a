"""HTTP and OpenAI's wire format; nothing else imports FastAPI. See docs/architecture.md."""
