"""What stands where."""

from __future__ import annotations

from django.contrib import admin
from django.http import HttpResponse
from django.urls import path
from django.views.decorators.csrf import csrf_exempt

from chat_site import views
from streamguard_django.stream_views import reader_js, stop

urlpatterns = [
    path("", views.file, {"path": "index.html"}),
    path("chat", views.chat),
    # Stop was pressed: that is authority. A reader who leaves is intent, and needs no request. No page of another site
    # knows a stream's id, so that no token is needed.
    path("streams/<str:stream_id>/stop", csrf_exempt(stop)),
    path("streams/reader.js", reader_js),
    path("statistics", views.counted),
    path("engine", views.who_answers),
    path("receipts", views.receipts),
    path("receipts/<str:stream_id>", views.receipt),
    path("admin/", admin.site.urls),
    path("favicon.ico", lambda request: HttpResponse(status=204)),
    path("static/<path:path>", views.file),
    path("<str:path>", views.file),
]
