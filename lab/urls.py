"""Every address of the lab. Pages stand in lab.pages.urls, the REST API in lab.api."""

from django.urls import path

urlpatterns: list = []
