"""Certificates are found by their key, which renewals prove, and revoked ones without reading all the others."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("trust", "0001_initial")]

    operations = [
        migrations.AddField(
            model_name="certificate",
            name="key_sha256",
            field=models.CharField(default="", max_length=64),
            preserve_default=False,
        ),
        migrations.AddIndex(
            model_name="certificate",
            index=models.Index(fields=["key_sha256", "-not_before"], name="certificate_by_key"),
        ),
        migrations.AddIndex(
            model_name="certificate",
            index=models.Index(
                condition=models.Q(("revoked_at__isnull", False)), fields=["revoked_at"], name="certificate_revoked"
            ),
        ),
    ]
