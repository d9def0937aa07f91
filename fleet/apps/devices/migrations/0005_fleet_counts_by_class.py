"""The fleet's stored count is by class, state and connection now. What is stored is a minute's worth: it is counted again."""

from typing import Any

from django.db import migrations


def forget(apps: Any, _schema_editor: Any) -> None:
    """Large fleets are counted for who asks until a worker has counted them again."""
    apps.get_model("devices", "FleetCount").objects.all().delete()


class Migration(migrations.Migration):
    """See above."""

    dependencies = [("devices", "0004_reported_at")]
    operations = [migrations.RunPython(forget, forget)]
