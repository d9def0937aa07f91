from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("rollouts", "0001_initial")]

    operations = [
        migrations.AddField(model_name="phaserun", name="counted_at", field=models.DateTimeField(null=True)),
        migrations.RunSQL("UPDATE rollouts_phaserun SET counted_at = started_at", migrations.RunSQL.noop),
    ]
