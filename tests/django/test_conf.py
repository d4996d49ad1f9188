"""The settings dictionary: read when needed, and wrong in words that help."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from django.conf import settings
from django.core import checks
from django.core.exceptions import ImproperlyConfigured
from django.test import override_settings

from streamguard_core import Deadlines, MemoryLedger, Rule, drain
from streamguard_django.conf import option, read
from streamguard_django.keys import KEYS

from .project import BOUND

LEDGER = MemoryLedger()


def make_ledger() -> MemoryLedger:
    """A factory, as a project may name one."""
    return MemoryLedger()


def _messages(**overridden: Any) -> dict[str, str]:
    with override_settings(**overridden):
        found = [each for each in checks.run_checks() if (each.id or "").startswith("streamguard.")]
    return {str(each.id): f"{each.msg} {each.hint}" for each in found}


def test_an_empty_dictionary_is_enough() -> None:
    """Every key has a default that can be used."""
    values, problems = read({})
    assert problems == []
    assert set(values) == set(KEYS)
    assert values["ON_DISCONNECT"].rule is Rule.CANCEL
    assert values["DEADLINES"] == Deadlines()


def test_a_project_without_the_setting_reads_it_once_as_well() -> None:
    """Each request asks for several options; nothing is built anew for that."""
    with override_settings():
        del settings.STREAMGUARD
        assert option("DEADLINES") is option("DEADLINES")


def test_what_is_overridden_is_read_again() -> None:
    """Tests override settings, and get the old ones back afterwards."""
    assert option("PING") == 15.0
    with override_settings(STREAMGUARD={"PING": None}):
        assert option("PING") is None
    assert option("PING") == 15.0


def test_a_dictionary_that_was_changed_in_place_is_read_again_when_the_setting_is_sent() -> None:
    """`setting_changed` says so, even where the dictionary is the same object."""
    given = {"PING": 1.0}
    with override_settings(STREAMGUARD=given):
        assert option("PING") == 1.0
        given["PING"] = 2.0
        with override_settings(STREAMGUARD=given):
            assert option("PING") == 2.0


@pytest.mark.parametrize("given", [LEDGER, make_ledger, MemoryLedger])
def test_a_ledger_is_given_or_made(given: object) -> None:
    """An instance is used as it is; a function or a class is called once."""
    with override_settings(STREAMGUARD={"LEDGER": given}):
        first = option("LEDGER")
        assert isinstance(first, MemoryLedger)
        assert option("LEDGER") is first
        assert given is not LEDGER or first is LEDGER


def test_the_checks_make_no_ledger_of_their_own() -> None:
    """A ledger has a writer: each `manage.py` run has one, whoever is first to read the settings."""
    made: list[MemoryLedger] = []

    def factory() -> MemoryLedger:
        made.append(MemoryLedger())
        return made[-1]

    with override_settings(STREAMGUARD={"LEDGER": factory}):
        checks.run_checks()
        assert made == [option("LEDGER")]
        checks.run_checks()
    assert len(made) == 1


class _Lock:
    """Says when somebody has to wait for it."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self.waited = threading.Event()

    def __enter__(self) -> None:
        if not self._lock.acquire(blocking=False):
            self.waited.set()
            self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()


def test_two_threads_that_are_first_make_one_ledger(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first requests of a threaded server come at once."""
    begun, may_go_on = threading.Event(), threading.Event()
    lock = _Lock()
    monkeypatch.setattr(option, "_lock", lock)
    made: list[MemoryLedger] = []
    seen: list[object] = []

    def factory() -> MemoryLedger:
        made.append(MemoryLedger())
        begun.set()
        assert may_go_on.wait(BOUND)
        return made[-1]

    def first() -> None:
        seen.append(option("LEDGER"))

    with override_settings(STREAMGUARD={"LEDGER": factory}):
        threads = [threading.Thread(target=first) for _ in range(2)]
        threads[0].start()
        assert begun.wait(BOUND)
        threads[1].start()
        assert lock.waited.wait(BOUND)
        may_go_on.set()
        for thread in threads:
            thread.join(BOUND)
    assert seen == [made[0]] * 2


def test_dotted_paths_are_followed() -> None:
    """A path names what it names, also where that is a class to be called."""
    values, problems = read(
        {
            "LEDGER": "streamguard_core.MemoryLedger",
            "ON_RECEIPT": "builtins.print",
            "ON_DISCONNECT": "streamguard_core.cancel",
            "TAGS": "builtins.dict",
        }
    )
    assert problems == []
    assert isinstance(values["LEDGER"], MemoryLedger)
    assert values["ON_RECEIPT"] is print
    assert values["TAGS"] is dict


def test_policies_deadlines_and_patterns_are_taken() -> None:
    """What the core takes, the settings take, with dictionaries for what is a structure there."""
    values, problems = read(
        {
            "ON_DISCONNECT": drain(3),
            "DEADLINES": {"idle": 3, "consumer_stall": 2.5},
            "EXCLUDE": [r"^/admin/"],
        }
    )
    assert problems == []
    assert values["ON_DISCONNECT"].rule is Rule.DRAIN
    assert values["DEADLINES"] == Deadlines(idle=3, consumer_stall=2.5)
    assert [each.pattern for each in values["EXCLUDE"]] == ["^/admin/"]
    assert read({"DEADLINES": Deadlines(total=9)})[0]["DEADLINES"] == Deadlines(total=9)


@pytest.mark.parametrize(
    ("given", "id", "says"),
    [
        (["LEDGER"], "E001", "not a dictionary"),
        ({"LEDGERS": None}, "E002", "Did you mean 'LEDGER'?"),
        ({"zzz": None}, "E002", "The keys are LEDGER"),
        ({"LEDGER": "/var/receipts.db"}, "E004", "cannot be imported"),
        ({"LEDGER": object()}, "E003", "append_open"),
        ({"ON_RECEIPT": "nowhere.to_be_found"}, "E004", "project.receipts.keep"),
        ({"ON_RECEIPT": 3}, "E003", "int cannot be called"),
        ({"ON_DISCONNECT": "grace"}, "E004", "cannot be imported"),
        ({"ON_DISCONNECT": 30}, "E003", "drain(30)"),
        ({"DEADLINES": {"idel": 3}}, "E003", "there is no deadline 'idel'"),
        ({"DEADLINES": {"idle": -3}}, "E003", "positive"),
        ({"DEADLINES": 30}, "E003", "no dictionary"),
        ({"PRICES": object()}, "E003", "PRICES"),
        ({"TAGS": 3}, "E003", "neither a dictionary"),
        ({"EXCLUDE": "/admin/"}, "E003", "no list"),
        ({"EXCLUDE": ["("]}, "E003", "cannot be compiled"),
        ({"PING": 0}, "E003", "None for no keep-alives"),
        ({"WATCH_SOCKET": "yes"}, "E003", "True or False"),
        ({"CLOSE_TIMEOUT": None}, "E003", "positive number of seconds"),
    ],
)
def test_a_mistake_is_said_with_what_to_write(given: object, id: str, says: str) -> None:  # noqa: A002
    """Each mistake has its id, says what is wrong and what to write; and nothing works on with it."""
    assert says in _messages(STREAMGUARD=given)[f"streamguard.{id}"]
    with (
        override_settings(STREAMGUARD=given),
        pytest.raises(ImproperlyConfigured, match="STREAMGUARD"),
    ):
        option("PING")


def test_a_good_project_gets_no_message() -> None:
    """The tests' own project has nothing that the checks mind."""
    assert _messages() == {}


def test_a_missing_middleware_is_said() -> None:
    """W001: without the middleware nothing is under guard."""
    assert "first line of MIDDLEWARE" in _messages(MIDDLEWARE=[])["streamguard.W001"]


def test_a_middleware_above_gzip_is_said() -> None:
    """W001: above GZip it would count compressed pieces; below it there is nothing to say."""
    ours, gzip = (
        "streamguard_django.StreamGuardMiddleware",
        "django.middleware.gzip.GZipMiddleware",
    )
    assert "below" in _messages(MIDDLEWARE=[ours, gzip])["streamguard.W001"]
    assert _messages(MIDDLEWARE=[gzip, ours]) == {}
