from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('lab', '0007_scored_by'),
    ]

    operations = [
        migrations.AddField(
            model_name='ranking',
            name='extra',
            field=models.BooleanField(default=False),
        ),
    ]
