"""The checkout's virtual environments: locked packages, llama-cpp-python, the checkout itself."""

import hashlib
import importlib.util
import json
import platform
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from deploy.setup.console import run_logged, say
from deploy.setup.errors import SetupError
from deploy.setup.machine import require_space
from deploy.setup.wheel import WheelBuild

_LOCKS = ("requirements.txt", "requirements-dev.txt")
_PACKAGES_GIB = 1.0
_PIP_COUNTER = r"^\s*(Collecting [^\s;(]+|Installing collected packages)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """A folder of the checkout, and a stamp in it per part that says from what it was installed."""

    root: Path
    logs: Path
    env: Mapping[str, str]
    name: str = ".venv"

    @property
    def folder(self) -> Path:
        return self.root / self.name

    @property
    def python(self) -> str:
        return str(self.folder / "bin" / "python")

    def make(self) -> None:
        if self._has_this_python():
            return
        if (
            importlib.util.find_spec("ensurepip") is None
            or importlib.util.find_spec("venv") is None
        ):
            version = f"{sys.version_info.major}.{sys.version_info.minor}"
            raise SetupError(
                f"Python {version} here cannot make virtual environments; "
                f"install its part for that: sudo apt install python{version}-venv"
            )
        require_space(self.root, _PACKAGES_GIB, "installing the packages")
        # Gone first: whatever `--clear` met half-way would else pass for a whole environment.
        shutil.rmtree(self.folder, ignore_errors=True)
        make_venv = [sys.executable, "-m", "venv", str(self.folder)]
        self._run(f"making {self.name} for Python {platform.python_version()}", make_venv)

    def install_packages(self, *, dev: bool) -> None:
        """Install what the lock pins; the development lock holds all of the other."""
        wanted = {name: _digest(self.root / name) for name in _LOCKS}
        lock = _LOCKS[dev]
        if self._is_stamped(lock, wanted[lock]):
            return
        require_space(self.root, _PACKAGES_GIB, "installing the packages")
        install = ("--require-hashes", "-r", str(self.root / lock))
        self._pip_install(f"installing {lock}", *install, counter=_PIP_COUNTER)
        for name in _LOCKS[: dev + 1]:
            self._stamp(name, wanted[name])

    def install_clients(self, lock: str, uv: Path) -> None:
        """Install what `lock` pins, and nothing of ours, with the uv of another environment."""
        if self._is_stamped(lock, wanted := _digest(self.root / lock)):
            return
        require_space(self.root, _PACKAGES_GIB, "installing the packages")
        install = ("--require-hashes", "-r", str(self.root / lock))
        try:
            uv_install = [str(uv), "pip", "install", "--python", self.python]
            self._run(f"installing {lock}", [*uv_install, *install])
        except SetupError:  # uv is ten times as fast, but knows nothing of pip's settings
            self._pip_install(f"installing {lock} with pip", *install, counter=_PIP_COUNTER)
        self._stamp(lock, wanted)

    def install_llama(self, build: WheelBuild) -> None:
        if self._is_stamped("llama", wanted := build.identity()):
            return
        wheel = build.obtain(self.logs / "llama-cpp-python.log")
        self._unstamp("llama")
        options = ("--no-deps", "--no-index", "--force-reinstall", str(wheel))
        self._pip_install("installing llama-cpp-python", *options)
        self._run("loading llama.cpp", [self.python, "-c", "import llama_cpp"])
        self._stamp("llama", wanted)

    def install_checkout(self) -> None:
        """Editable, without dependencies: gives the `smolserve` command."""
        if self._is_stamped("checkout", wanted := _digest(self.root / "pyproject.toml")):
            return
        options = ("--no-deps", "--no-index", "--no-build-isolation", "--editable", str(self.root))
        self._pip_install("installing smolserve", *options)
        self._stamp("checkout", wanted)

    def fetch_model(self, name: str) -> None:
        """Have the installed command fetch a model of the catalogue into the checkout."""
        models_dir = self.root / "models"
        if (models_dir / f"{name}.gguf").exists():
            return
        say(f"fetching the model {name}")
        command = [str(self.folder / "bin" / "smolserve"), "models", "pull", name]
        options = ["--models-dir", str(models_dir)]
        if subprocess.run([*command, *options], env=self.env, check=False).returncode != 0:
            raise SetupError(f"the tests need the model {name}")

    def _has_this_python(self) -> bool:
        try:
            settings = (self.folder / "pyvenv.cfg").read_text()
        except OSError:
            return False
        is_same = f"version = {platform.python_version()}\n" in settings
        return is_same and all((self.folder / "bin" / name).exists() for name in ("python", "pip"))

    def _pip_install(self, title: str, *arguments: str, counter: str | None = None) -> None:
        self._run(title, [self.python, "-m", "pip", "install", *arguments], counter)

    def _run(self, title: str, command: list[str], counter: str | None = None) -> None:
        log = self.logs / f"{title.replace(' ', '-').replace('/', '-')}.log"
        env = {**self.env, "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1"}
        run_logged(title, command, log=log, env=env, counter=counter)

    @property
    def _stamps(self) -> Path:
        return self.folder / "smolserve-setup.json"

    def _read_stamps(self) -> dict[str, str]:
        try:
            return json.loads(self._stamps.read_text())
        except (OSError, ValueError):
            return {}

    def _is_stamped(self, part: str, wanted: str) -> bool:
        return self._read_stamps().get(part) == wanted

    def _stamp(self, part: str, value: str) -> None:
        self._write_stamps({**self._read_stamps(), part: value})

    def _unstamp(self, part: str) -> None:
        self._write_stamps({k: v for k, v in self._read_stamps().items() if k != part})

    def _write_stamps(self, stamps: dict[str, str]) -> None:
        draft = self._stamps.with_suffix(".new")
        draft.write_text(json.dumps(stamps))
        draft.replace(self._stamps)


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
