"""The WSGI application. It refuses to serve without the secrets that `manage.py prepare` makes."""

import os

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "fleet.config.settings")

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.core.wsgi import get_wsgi_application

if not (settings.MODELFLEET.secrets / "web.key").exists():
    message = f"no secrets in {settings.MODELFLEET.secrets}: run `manage.py prepare` (or `manage.py up`) first"
    raise ImproperlyConfigured(message)

application = get_wsgi_application()
