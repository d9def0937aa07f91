# Which devices a rule is about, as a filter; empty means every device.

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("assignments", "0001_initial"),
    ]

    operations = [
        migrations.AddField(
            model_name="rule",
            name="filter",
            field=models.TextField(blank=True, default=""),
        ),
    ]
