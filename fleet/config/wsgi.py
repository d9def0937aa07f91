"""The WSGI application. It refuses to serve without the secrets that `manage.py prepare` makes."""

import os
import signal

# A granian worker that is still loading this module has its parent's handler, which notes SIGTERM where nobody looks, and
# the parent waits for ever: let the signal end it. Other servers set handlers of their own, which are left alone.
if str(getattr(signal.getsignal(signal.SIGTERM), "__module__", "")).startswith("granian."):
    signal.signal(signal.SIGTERM, signal.SIG_DFL)

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "fleet.config.settings")

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.core.wsgi import get_wsgi_application

if not (settings.MODELFLEET.secrets / "web.key").exists():
    message = f"no secrets in {settings.MODELFLEET.secrets}: run `manage.py prepare` (or `manage.py up`) first"
    raise ImproperlyConfigured(message)

application = get_wsgi_application()
