"""`path("streams/", include("streamguard_django.urls"))`: what a reader may do to its stream besides reading it."""

from __future__ import annotations

from django.urls import path

from streamguard_django.stream_views import reader_js, receipt, stop

app_name = "streamguard"

urlpatterns = [
    path("reader.js", reader_js, name="reader"),
    path("<str:stream_id>/stop", stop, name="stop"),
    path("<str:stream_id>/receipt", receipt, name="receipt"),
]
