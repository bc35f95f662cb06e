import django.db.models.deletion
from django.conf import settings
from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('lab', '0005_arena'),
    ]

    operations = [
        migrations.CreateModel(
            name='TrickMark',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('trick', models.CharField(db_index=True, max_length=12)),
                ('verdict', models.CharField(choices=[('nonsense', 'nonsense'), ('fair', 'fair')], max_length=8)),
                ('created', models.DateTimeField(auto_now_add=True)),
                ('by', models.ForeignKey(null=True, on_delete=django.db.models.deletion.SET_NULL, to=settings.AUTH_USER_MODEL)),
                ('run', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='trick_marks', to='lab.run')),
            ],
            options={
                'ordering': ['id'],
            },
        ),
    ]
