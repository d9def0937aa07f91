"""Django's settings, all of them derived from the one typed `Environment`; no other module reads the environment."""

import os
import sys
from pathlib import Path
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.core.management.utils import get_random_secret_key

from fleet.config.environment import (
    Environment,
    EnvironmentInvalidError,
    PostgresServer,
    SqliteFile,
    parse_environment,
    variables_of_note,
)

BASE_DIR = Path(__file__).resolve().parents[2]


def _process_name() -> str:
    """The management command's name, or `web` for a WSGI server."""
    return sys.argv[1] if Path(sys.argv[0]).name == "manage.py" and len(sys.argv) > 1 else "web"


def _database(where: SqliteFile | PostgresServer) -> dict[str, Any]:
    match where:
        case SqliteFile(path):
            return {
                "ENGINE": "django.db.backends.sqlite3",
                "NAME": path,
                "OPTIONS": {
                    # SQLite has one writer. IMMEDIATE takes the write lock when a transaction begins, so that it waits
                    # its turn (up to the timeout) instead of failing half way, when a read lock cannot be upgraded.
                    "transaction_mode": "IMMEDIATE",
                    "timeout": 20,
                    # FULL, not NORMAL: with NORMAL a power cut loses transactions that were already committed, and
                    # ingest tells a device to forget its reports as soon as they are committed here.
                    "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;",
                },
            }
        case PostgresServer():
            return {
                "ENGINE": "django.db.backends.postgresql",
                "NAME": where.name,
                "USER": where.user,
                "PASSWORD": where.password,
                "HOST": where.host,
                "PORT": str(where.port or ""),
                "CONN_MAX_AGE": 60,
                "CONN_HEALTH_CHECKS": True,
                "OPTIONS": {"connect_timeout": 10},
            }


def _variables() -> dict[str, str]:
    """The environment, completed by the note of an installation that runs on the same home (`up` writes that note)."""
    process = _process_name()
    home = parse_environment(os.environ, root=BASE_DIR, process=process).home
    try:
        note = "" if process == "up" else (home / "up.json").read_text(encoding="utf-8")
    except OSError:
        note = ""
    return variables_of_note(note) | dict(os.environ)


try:
    MODELFLEET: Environment = parse_environment(_variables(), root=BASE_DIR, process=_process_name())
except EnvironmentInvalidError as error:
    raise ImproperlyConfigured(str(error)) from None

_web_key = MODELFLEET.secrets / "web.key"
# Commands that serve nobody (`prepare`, which makes the key, `makemigrations`) run before the key exists, on a throw-away
# one; `fleet.config.wsgi` refuses to serve without the file.
SECRET_KEY = _web_key.read_text(encoding="ascii").strip() if _web_key.exists() else get_random_secret_key()
DEBUG = MODELFLEET.debug
ALLOWED_HOSTS = list(MODELFLEET.allowed_hosts)

INSTALLED_APPS = [
    "unfold",
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "rest_framework",
    "drf_spectacular",
    *(
        f"fleet.apps.{name}"
        for name in (
            "registry",
            "trust",
            "devices",
            "telemetry",
            "assignments",
            "rollouts",
            "experiments",
            "audit",
            "jobs",
            "webhooks",
            "outbox",
        )
    ),
    "fleet.entrypoints.api",
    "fleet.entrypoints.gateway",
    "fleet.entrypoints.up",
    "fleet.entrypoints.ui",
]
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

MIDDLEWARE = [
    "fleet.config.hosts.HostMiddleware",
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "fleet.entrypoints.ui.content_security.ContentSecurityMiddleware",
]
ROOT_URLCONF = "fleet.config.urls_devices" if MODELFLEET.devices_only else "fleet.config.urls"
WSGI_APPLICATION = "fleet.config.wsgi.application"
APPEND_SLASH = False

TEMPLATES: list[dict[str, Any]] = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    },
]

# No ATOMIC_REQUESTS: each service opens the one short transaction that it needs.
DATABASES = {"default": _database(MODELFLEET.database)}

AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{name}"}
    for name in ("UserAttributeSimilarityValidator", "MinimumLengthValidator", "CommonPasswordValidator")
]
LOGIN_URL = "/login"
LOGIN_REDIRECT_URL = "/"
LOGOUT_REDIRECT_URL = "/login"

LANGUAGE_CODE = "en"
TIME_ZONE = "UTC"
USE_I18N = False
USE_TZ = True

STATIC_URL = "/static/"
STATICFILES_DIRS = [path for path in [BASE_DIR / "fleet" / "entrypoints" / "ui" / "static"] if path.is_dir()]
# Served from where the packages keep them, listed once at start: there is no collected copy that could go stale.
WHITENOISE_USE_FINDERS = True
WHITENOISE_AUTOREFRESH = DEBUG
WHITENOISE_MAX_AGE = 0 if DEBUG else 600

# What browsers are told decides about cookies: over plain http (a laptop, on loopback) a secure cookie never comes back.
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = MODELFLEET.over_tls
SESSION_COOKIE_HTTPONLY = True
SECURE_SSL_REDIRECT = MODELFLEET.over_tls
SECURE_REDIRECT_EXEMPT = [r"^healthz$", r"^readyz$"]
SECURE_HSTS_SECONDS = 31_536_000 if MODELFLEET.over_tls and not MODELFLEET.devices_only else 0
SECURE_HSTS_INCLUDE_SUBDOMAINS = True
SECURE_REFERRER_POLICY = "same-origin"
SECURE_CONTENT_TYPE_NOSNIFF = True
X_FRAME_OPTIONS = "DENY"
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https") if MODELFLEET.behind_proxy else None
CSRF_TRUSTED_ORIGINS = [MODELFLEET.public_url]
SILENCED_SYSTEM_CHECKS = [
    # HSTS preloading is a promise about the owner's whole domain; it is not ours to make.
    "security.W021",
]
DATA_UPLOAD_MAX_MEMORY_SIZE = 2_621_440

REST_FRAMEWORK: dict[str, Any] = {
    "DEFAULT_SCHEMA_CLASS": "drf_spectacular.openapi.AutoSchema",
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_PARSER_CLASSES": ["rest_framework.parsers.JSONParser"],
    # Default deny: a view that names no permission serves nobody but people who are logged in.
    "DEFAULT_PERMISSION_CLASSES": ["rest_framework.permissions.IsAuthenticated"],
    "TEST_REQUEST_DEFAULT_FORMAT": "json",
}
SPECTACULAR_SETTINGS: dict[str, Any] = {
    "TITLE": "Modelfleet",
    "DESCRIPTION": "Versions, devices and rollouts of machine-learning models on fleets of edge devices.",
    "VERSION": "1",
    "OAS_VERSION": "3.1.0",
    "SCHEMA_PATH_PREFIX": "/api/v1",
    "SERVE_INCLUDE_SCHEMA": False,
}
UNFOLD: dict[str, Any] = {"SITE_TITLE": "Modelfleet", "SITE_HEADER": "Modelfleet administration", "SITE_URL": "/"}

LOGGING: dict[str, Any] = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"()": "fleet.config.logs.LineFormatter", "process": MODELFLEET.process}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
    "root": {"handlers": ["stderr"], "level": "INFO"},
    "loggers": {
        # Django's own console handler would print each of its records a second time.
        "django": {"handlers": [], "level": "INFO", "propagate": True},
        "django.server": {"handlers": [], "propagate": True},
        "django.request": {"level": "ERROR"},
    },
}
