"""Keep what JAX has compiled between sessions."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path


def enable_compilation_cache(path: str | os.PathLike[str] | None = None) -> Path:
    """Keep compiled programs on disk, so that later sessions load them instead of compiling them again.

    A program is found again by its text, the versions of JAX and XLA, the device and the compile options; data are no
    part of it, only their shapes. All programs are kept, small ones too, a few hundred kilobytes a fit. The folder
    never shrinks by itself, and may be deleted at any time. Call it before or after other work with JAX; what is
    compiled from then on is kept. It sets JAX's own options (`jax_compilation_cache_dir` and thresholds), for
    everything that JAX compiles in this process. `import tercet` alone sets nothing.

    Parameters
    ----------
    path : folder, made where it does not exist. By default the folder that JAX is already set to use (such as by the
        environment variable JAX_COMPILATION_CACHE_DIR), else `tercet/jax` in the user's folder for caches:
        $XDG_CACHE_HOME or ~/.cache on Linux, ~/Library/Caches on macOS, %LOCALAPPDATA% on Windows

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    OSError
        Where the folder cannot be made or written to; then nothing is changed.

    References
    ----------
    JAX documentation, "Persistent compilation cache".

    Examples
    --------
    >>> import tercet
    >>> folder = tercet.enable_compilation_cache()  # before the first fit
    >>> folder.is_dir()
    True
    """
    import jax
    from jax.experimental.compilation_cache import compilation_cache

    given = path if path is not None else jax.config.values["jax_compilation_cache_dir"]
    folder = _of_the_user() if given is None else Path(given).expanduser().absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OSError(
            f"the folder for compiled programs, {folder}, cannot be written to ({error.strerror or error}): give "
            "enable_compilation_cache(path) one that can."
        ) from error
    settings = {
        "jax_enable_compilation_cache": True,
        "jax_compilation_cache_dir": str(folder),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    for name, value in settings.items():
        jax.config.update(name, value)  # type: ignore[no-untyped-call]
    compilation_cache.reset_cache()  # JAX decides once, at the first program, whether and where it keeps them
    return folder


def _of_the_user() -> Path:
    """The user's folder for caches by the platform's convention (platformdirs is no dependency of ours)."""
    home = Path.home()
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local") / "tercet" / "jax"
    if sys.platform == "darwin":
        return home / "Library" / "Caches" / "tercet" / "jax"
    return Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache") / "tercet" / "jax"
