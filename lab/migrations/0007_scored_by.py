from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('lab', '0006_trick_marks'),
    ]

    operations = [
        migrations.AddField(
            model_name='project',
            name='scored_by',
            field=models.BigIntegerField(default=0),
        ),
    ]
