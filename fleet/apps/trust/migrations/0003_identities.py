from django.apps.registry import Apps
from django.conf import settings
from django.db import migrations, models
from django.db.backends.base.schema import BaseDatabaseSchemaEditor


def name_owners(apps: Apps, _schema_editor: BaseDatabaseSchemaEditor) -> None:
    # Tokens that people issued from their sessions are theirs; of all others nobody has said whose they are.
    users = apps.get_model(settings.AUTH_USER_MODEL)
    for token in apps.get_model("trust", "ApiToken").objects.filter(created_by__startswith="user:"):
        user = users.objects.filter(username=token.created_by.removeprefix("user:")).first()
        if user is not None:
            token.owner = f"user#{user.pk}"
            token.save(update_fields=["owner"])


class Migration(migrations.Migration):
    dependencies = [
        ("trust", "0002_certificate_keys"),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.AddField(
            model_name="apitoken",
            name="owner",
            field=models.CharField(blank=True, default="", max_length=128),
        ),
        migrations.RunPython(name_owners, migrations.RunPython.noop),
    ]
