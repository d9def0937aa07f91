"""Devices and groups."""

from collections.abc import Sequence
from http import HTTPStatus

from rest_framework.request import Request
from rest_framework.response import Response

from fleet.apps.assignments import selectors as assignments
from fleet.apps.devices import selectors, services
from fleet.apps.devices.records import DeviceChoice, DeviceRecord
from fleet.domain.errors import NotFoundError
from fleet.domain.filters.filter import Filter
from fleet.domain.scopes import Scope
from fleet.entrypoints.api.access import require
from fleet.entrypoints.api.base import ApiView
from fleet.entrypoints.api.documentation import documented, paged
from fleet.entrypoints.api.pagination import search, whole
from fleet.entrypoints.api.serializers import fleet as forms
from fleet.wiring import fleet_access


class Devices(ApiView):
    """The fleet."""

    scopes = {"GET": Scope.READ}

    @paged(forms.DeviceSerializer, summary="List devices", query=forms.DeviceQuery)
    def get(self, _request: Request) -> Response:
        """In order of id. A large fleet is looked through in parts: a page may hold few devices, or none, and have a next one."""
        asked = self.query(forms.DeviceQuery)
        choice = DeviceChoice(
            model=asked.get("model", ""),
            version=asked.get("version"),
            hardware_class=asked.get("hardware_class", ""),
            state=asked.get("state", ""),
            online=asked["online"],
            group=asked.get("group", ""),
            search=asked.get("search", ""),
            filter=Filter.parse(asked.get("filter", "")),
        )

        def look(after: str, limit: int) -> tuple[Sequence[DeviceRecord], str]:
            found = selectors.search(choice=choice, after=after, limit=limit)
            return found.rows, found.following

        return search(self, look, forms.DeviceSerializer)


class Device(ApiView):
    """One device."""

    scopes = {"GET": Scope.READ}

    @documented(forms.DeviceSerializer, summary="Show a device")
    def get(self, _request: Request, device: str) -> Response:
        """What it last said of itself."""
        return Response(forms.DeviceSerializer(selectors.device(device)).data)


class DeviceRevocation(ApiView):
    """Ends a device's membership."""

    scopes = {"POST": Scope.DEVICE_WRITE}

    @documented(forms.DeviceSerializer, summary="Revoke a device")
    def post(self, _request: Request, device: str) -> Response:
        """Its certificates are revoked and the broker turns it away at once; the id stays taken."""
        fleet_access.revoke_device(device_id=device, actor=self.principal.actor, now=self.now)
        return Response(forms.DeviceSerializer(selectors.device(device)).data)


class Explanation(ApiView):
    """Why a device runs what it runs."""

    scopes = {"GET": Scope.READ}
    names_model_later = True

    @documented(forms.ExplanationSerializer, summary="Why a device runs what it runs", query=forms.ExplainQuery)
    def get(self, _request: Request, device: str) -> Response:
        """The steps that were stored when the device was last answered."""
        model = self.query(forms.ExplainQuery)["model"]
        require(self.principal, Scope.READ, model)
        selectors.device(device)
        record = assignments.assignment(device_id=device, model=model)
        if record is None:
            raise NotFoundError(
                "assignment_not_found", f"expected a device that asked about {model}, got one that did not"
            )
        return Response(forms.ExplanationSerializer(record).data)


class Timeline(ApiView):
    """What a device reported."""

    scopes = {"GET": Scope.READ}

    @documented(forms.TimelineSerializer, summary="The newest reports of a device", query=forms.TimelineQuery)
    def get(self, _request: Request, device: str) -> Response:
        """The newest first."""
        limit = self.query(forms.TimelineQuery)["limit"]
        selectors.device(device)
        reports = selectors.timeline(device, limit)
        return Response(forms.TimelineSerializer({"next": None, "previous": None, "results": reports}).data)


class Groups(ApiView):
    """Groups of devices."""

    scopes = {"GET": Scope.READ}

    @paged(forms.GroupSerializer, summary="List groups")
    def get(self, _request: Request) -> Response:
        """By name."""
        found = [{"name": name, "devices": count} for name, count in selectors.groups().items()]
        return whole(self, found, forms.GroupSerializer)


class Group(ApiView):
    """One group."""

    scopes = {"PUT": Scope.DEVICE_WRITE}

    @documented(forms.GroupSerializer, request=forms.GroupBody, summary="Set what a group holds")
    def put(self, _request: Request, group: str) -> Response:
        """Exactly these devices."""
        count = services.set_group(name=group, device_ids=self.body(forms.GroupBody)["devices"], now=self.now)
        return Response(forms.GroupSerializer({"name": group, "devices": count}).data, status=HTTPStatus.OK)
