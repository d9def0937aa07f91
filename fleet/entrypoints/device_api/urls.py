"""Routes for devices. They never change within a version: devices in the field call them for years."""

from django.urls import path

from fleet.entrypoints.device_api import blobs, enrolment, image

urlpatterns = [
    path("device/v1/anchors", enrolment.anchors, name="device-anchors"),
    path("device/v1/config", enrolment.configuration, name="device-config"),
    path(".well-known/est/simpleenroll", enrolment.simple_enroll, name="est-simpleenroll"),
    path(".well-known/est/simplereenroll", enrolment.simple_reenroll, name="est-simplereenroll"),
    path("device/v1/blobs/<str:sha256>", blobs.download, name="device-blob"),
    path("image/metadata/<str:name>", image.metadata, name="image-metadata"),
]
