"""Settings, all from the environment, each with a default that works without any server or account."""

import hashlib
import hmac
import os
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from lab import paths

BASE_DIR = Path(__file__).resolve().parent.parent
LAB_HOME = paths.home()
LAB_HOST = os.environ.get("LAB_HOST", "127.0.0.1")
try:
    LAB_PORT = int(os.environ.get("LAB_PORT", "8000"))
    if not 0 < LAB_PORT < 65536:
        raise ValueError
except ValueError:
    raise SystemExit(
        f"LAB_PORT is {os.environ['LAB_PORT']!r}, and must be a number from 1 to 65535: try LAB_PORT=8000"
    ) from None
LAB_URL = os.environ.get("LAB_URL") or f"http://{LAB_HOST}:{LAB_PORT}"
"""Where programs of the lab itself (the simulated labeler) and people reach web."""
SECRET_KEY = paths.secret_key()
DEBUG = os.environ.get("LAB_DEBUG") == "1"
# A page of a foreign name that points here (DNS rebinding) is refused; more names are added by the person.
ALLOWED_HOSTS = ["127.0.0.1", "localhost", "[::1]", LAB_HOST, "testserver"]
ALLOWED_HOSTS += [name.strip() for name in os.environ.get("LAB_ALLOWED_HOSTS", "").split(",") if name.strip()]

INSTALLED_APPS = [
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "whitenoise.runserver_nostatic",
    "django.contrib.staticfiles",
    "django_htmx",
    "template_partials",
    "ninja",
    "lab",
]
MIDDLEWARE = [
    "lab.security.headers",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "lab.security.same_origin",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django_htmx.middleware.HtmxMiddleware",
    "lab.security.signed_in",
]
ROOT_URLCONF = "lab.urls"
ASGI_APPLICATION = "lab.asgi.application"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
                "lab.pages.context.site",
            ],
            "builtins": ["lab.templatetags.lab"],
        },
    }
]


def _database(url: str | None) -> dict[str, Any]:
    if not url:
        return {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": LAB_HOME / "lab.sqlite3",
            # A file, as in life: threads that share a database in memory do not wait for each other's locks.
            "TEST": {"NAME": LAB_HOME / "test.sqlite3"},
            "OPTIONS": {
                # Without IMMEDIATE, a transaction that reads and then writes fails as soon as two meet.
                "transaction_mode": "IMMEDIATE",
                "timeout": 20,
                "init_command": "PRAGMA journal_mode=WAL;PRAGMA synchronous=NORMAL;PRAGMA busy_timeout=20000;"
                "PRAGMA foreign_keys=ON;PRAGMA cache_size=-65536;PRAGMA mmap_size=134217728;"
                "PRAGMA temp_store=MEMORY;PRAGMA journal_size_limit=67108864",
            },
        }
    parts = urlsplit(url)
    if parts.scheme not in ("postgres", "postgresql"):
        raise SystemExit(
            f"DATABASE_URL begins with {parts.scheme!r}, and must be postgresql://user:password@host:5432/name"
        )
    return {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": unquote(parts.path.lstrip("/")),
        "USER": unquote(parts.username or ""),
        "PASSWORD": unquote(parts.password or ""),
        "HOST": parts.hostname or "",
        "PORT": str(parts.port or ""),
        "CONN_HEALTH_CHECKS": True,
    }


DATABASES = {"default": _database(os.environ.get("DATABASE_URL"))}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
AUTH_USER_MODEL = "lab.Account"
LOGIN_URL = "/sign-in"
SESSION_COOKIE_HTTPONLY = True
SESSION_COOKIE_SAMESITE = "Lax"
# Cookies know no ports: two labs on one machine would sign each other out.
SESSION_COOKIE_NAME = f"lab_session_{LAB_PORT}"
CSRF_COOKIE_NAME = f"lab_csrf_{LAB_PORT}"
SECURE_CONTENT_TYPE_NOSNIFF = True
X_FRAME_OPTIONS = "DENY"

# Artifacts: a folder, or any fsspec URL. A run's private state and event files stay below LAB_HOME.
ARTIFACT_URL = os.environ.get("ARTIFACT_URL") or str(paths.inside("artifacts"))
ARTIFACT_ROOT = (
    Path(ARTIFACT_URL.removeprefix("file://"))
    if "://" not in ARTIFACT_URL or ARTIFACT_URL.startswith("file://")
    else paths.inside("artifacts")
)
RUNS_ROOT = paths.inside("runs")
UPLOAD_ROOT = paths.inside("uploads")
# Server-side files that a researcher may name as a source; more roots are added by the person who runs the lab.
IMPORT_ROOTS = [UPLOAD_ROOT] + [
    Path(root).absolute() for root in os.environ.get("LAB_IMPORT_ROOTS", "").split(os.pathsep) if root
]
MAX_UPLOAD_BYTES = int(os.environ.get("LAB_MAX_UPLOAD_BYTES", str(2 * 1024**3)))
DATA_UPLOAD_MAX_MEMORY_SIZE = 32 * 1024**2
FILE_UPLOAD_TEMP_DIR = paths.inside("uploads")
FILE_UPLOAD_HANDLERS = ["django.core.files.uploadhandler.TemporaryFileUploadHandler"]

LAB_ID = hashlib.sha256(
    ":".join(str(DATABASES["default"].get(key, "")) for key in ("HOST", "PORT", "NAME")).encode()
).hexdigest()[:12]
"""The same for all processes of a lab, wherever they run: its database is what makes it one."""
REDIS_URL = os.environ.get("REDIS_URL") or f"redis+socket://{paths.socket('redis.sock')}"
ENGINE_URL = os.environ.get("ENGINE_URL") or f"unix://{paths.socket('engine.sock')}"
ENGINE_KEY = os.environ.get("ENGINE_KEY") or hmac.digest(SECRET_KEY.encode(), b"engine", "sha256").hex()
"""What web shows to the engine: on a network the engine answers to nobody else."""
LEASE_SECONDS = float(os.environ.get("LAB_LEASE_SECONDS", "8"))
"""A worker that is silent for so long has lost its runs; the others go on with them."""
N_SLOTS = int(os.environ.get("LAB_SLOTS", "2"))
"""Runs (and shards) that one worker executes at a time."""

LANGUAGE_CODE = "en-gb"
TIME_ZONE = os.environ.get("TZ", "UTC")
USE_TZ = True
USE_I18N = False
STATIC_URL = "/static/"
STATIC_ROOT = paths.inside("static")
STATICFILES_DIRS = [BASE_DIR / "lab" / "static"]
STATICFILES_FINDERS = [
    "django.contrib.staticfiles.finders.FileSystemFinder",
    "django.contrib.staticfiles.finders.AppDirectoriesFinder",
    "lab.finders.PlotlyFinder",
]
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {"BACKEND": "lab.finders.StaticFiles"},
}
WHITENOISE_MAX_AGE = 3600
MESSAGE_STORAGE = "django.contrib.messages.storage.cookie.CookieStorage"
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"plain": {"format": "{asctime} {name}: {message}", "style": "{", "datefmt": "%H:%M:%S"}},
    "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "plain"}},
    "root": {"handlers": ["console"], "level": "WARNING"},
    "loggers": {"lab": {"level": "INFO"}, "worker": {"level": "INFO"}},
}
