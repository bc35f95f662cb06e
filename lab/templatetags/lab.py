"""How figures, times and states are written, everywhere alike."""

from django import template

register = template.Library()
