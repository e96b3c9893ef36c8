"""What sessions amount to: of each peer, and in each day, week and month."""

import random
from typing import Any, Dict, List, Optional, Sequence, Tuple

import pytest

from values import zone
from wg_monitor import Refusal
from wg_report import ENDED, ONLINE, Gap, History, Period, Session, Total, Usage, Zone, add_up, add_up_by

H = 3600.0
MONDAY = 1_793_577_600.0  # 2026-11-02 00:00 UTC
WEEK = Period(MONDAY, MONDAY + 7 * 24 * H)


def session(start: float, until: float, peer: str = "a", **more: Any) -> Session:
    """`start`, `until`: hours since Monday."""
    fields: Dict[str, Any] = {
        "gateway": "", "interface": "wg0", "name": "", "number": 1, "state": ENDED, "length": (until - start) * H,
        "endpoints": ("192.0.2.1:51820",), "allowed_ips": "10.0.0.1/32", "received": 100, "sent": 10, "unwatched": 0.0,
        "reason": "idle",
    }  # fmt: skip
    fields.update(more, peer=peer, start=MONDAY + start * H, until=MONDAY + until * H)
    return Session(**fields)


def gap(start: float, stop: float, interface: Optional[str] = None) -> Gap:
    return Gap("", interface, MONDAY + start * H, MONDAY + stop * H, "stopped")


def history(*gaps: Gap, period: Period = WEEK, gateway: str = "") -> History:
    return History(gateway, "", period, gaps, lambda period: iter(()))


def hours(since: float, until: float) -> Period:
    return Period(MONDAY + since * H, MONDAY + until * H)


def one(sessions: Sequence[Session], period: Period = WEEK, *gaps: Gap) -> Total:
    totals, every = add_up(sessions, [history(*gaps)], period)
    assert len(totals) == 1
    assert every == totals[0]._replace(gateway="", interface="", peer="", name="")
    return totals[0]


def test_the_sums_of_one_peer() -> None:
    total = one([session(0, 1), session(2, 4, name="alice"), session(10, 20)], hours(0, 26))
    assert total == Total(
        "", "wg0", "a", "alice", 3, 13 * H, 0.0, 0.5, 10 * H, 2 * H, 0, 0.0, 300, 30, False, 1
    )  # fmt: skip


def test_the_median_of_an_even_number_lies_between_two() -> None:
    assert one([session(0, 1), session(2, 4), session(10, 20), session(30, 34)]).median_s == 3 * H


@pytest.mark.parametrize("length", [1e9, 1e12, 1e16, 1e18])
def test_the_median_of_hostile_lengths_is_found(length: float) -> None:
    total = one([session(0, 1), session(2, 4, length=length), session(10, 20, length=length)])
    assert total.median_s == pytest.approx(length) and total.longest_s == length


def test_time_is_clipped_to_the_period_and_the_rest_is_whole_and_marked() -> None:
    total = one([session(0, 10)], hours(4, 6))
    assert (total.online_s, total.share, total.beyond) == (2 * H, 1.0, True)
    assert (total.longest_s, total.median_s, total.received_bytes, total.sent_bytes) == (10 * H, 10 * H, 100, 10)


@pytest.mark.parametrize(
    "since, until, beyond", [(1, 2, False), (0, 3, False), (1.5, 3, True), (0, 1.5, True)], ids=["same", "in", "left", "right"]
)
def test_a_session_is_beyond_if_any_of_it_is_outside(since: float, until: float, beyond: bool) -> None:
    assert one([session(1, 2)], hours(since, until)).beyond is beyond


def test_an_open_session_counts_up_to_the_last_reading() -> None:
    total = one([session(20, 26, state=ONLINE, reason="")], Period())
    assert (total.sessions, total.online_s, total.beyond) == (1, 6 * H, False)


def test_length_is_the_time_without_steps_of_the_clock() -> None:
    """The clock was set forward by two hours in it: an hour of it is a third of three on the clock."""
    step = session(0, 3, length=H)
    assert one([step], hours(0, 24)).online_s == H
    assert one([step], hours(0, 1)).online_s == pytest.approx(H / 3)


def test_a_session_whose_end_lies_before_its_beginning_counts_where_it_began() -> None:
    back = session(5, 4, length=H)
    assert one([back], hours(0, 24)).online_s == H
    assert one([back], hours(4.5, 24)).online_s == H
    assert one([back], hours(0, 4.5)).online_s == 0.0


def test_a_single_handshake_is_a_session_without_length() -> None:
    total = one([session(1, 1), session(2, 2, reason="unreachable"), session(3, 3)])
    assert (total.sessions, total.online_s, total.interruptions, total.interruptions_per_hour) == (3, 0.0, 1, None)


def test_the_share_is_of_the_time_that_somebody_watched() -> None:
    total = one([session(0, 6)], hours(0, 24), gap(6, 18), gap(20, 22, "wg0"), gap(22, 23, "wg1"))
    assert total.share == 6 / 10


def test_unwatched_time_of_a_session_is_no_share_of_watched_time() -> None:
    total = one([session(0, 6, unwatched=4 * H)], hours(0, 24), gap(1, 5))
    assert (total.online_s, total.unwatched_s, total.share) == (6 * H, 4 * H, 2 / 20)


def test_unwatched_time_outside_the_period_does_not_count() -> None:
    long = session(0, 20, unwatched=6 * H)
    assert one([long], hours(4, 8), gap(3, 5), gap(10, 14)).unwatched_s == H
    assert one([long], hours(6, 8), gap(3, 5), gap(10, 14)).unwatched_s == 0.0


def test_a_gap_that_goes_on_after_a_session_counts_up_to_its_end() -> None:
    total = one([session(0, 2, unwatched=10 * H)], hours(0, 24), gap(1, 11))
    assert (total.unwatched_s, total.share) == (H, 1 / 14)


def test_gaps_that_overlap_are_lost_once() -> None:
    assert one([session(0, 6)], hours(0, 24), gap(6, 12, "wg0"), gap(8, 10), gap(9, 18)).share == 0.5


def test_time_before_and_after_the_history_is_not_watched() -> None:
    totals, _ = add_up([session(10, 11)], [history(period=hours(10, 12))], hours(0, 24))
    assert totals[0].share == 0.5


def test_a_share_of_nothing_is_unknown() -> None:
    totals, every = add_up([session(10, 11)], [history(gap(0, 24))], hours(0, 24))
    assert totals[0].share is None and every.share is None


def test_nobody_at_all() -> None:
    totals, every = add_up([], [history()], WEEK)
    assert totals == []
    assert every == Total("", "", "", "", 0, 0.0, 0.0, None, 0.0, 0.0, 0, None, None, None, False, 0)


def test_an_interruption_is_an_unreachable_peer_that_came_back() -> None:
    reasons = ["unreachable", "idle", "unreachable", "reset", "unreachable"]
    total = one([session(2 * n, 2 * n + 1, reason=reason) for n, reason in enumerate(reasons)])
    assert (total.interruptions, total.interruptions_per_hour) == (2, 2 / 5)


def test_interruptions_are_those_of_one_peer() -> None:
    totals, every = add_up(
        [session(0, 1, "a", reason="unreachable"), session(2, 3, "b", reason="unreachable"), session(4, 5, "a")],
        [history()], WEEK,
    )  # fmt: skip
    assert [(total.peer, total.interruptions) for total in totals] == [("a", 1), ("b", 0)]
    assert (every.interruptions, every.interruptions_per_hour) == (1, 1 / 3)


def test_a_peer_is_one_on_each_interface_of_each_gateway() -> None:
    sessions = [session(n, n + 1, gateway=g, interface=i) for n, (g, i) in enumerate([("x", "wg0"), ("x", "wg1"), ("y", "wg0")])]
    histories = [history(gateway="x", period=hours(0, 4)), history(gap(0, 8), gateway="y", period=hours(0, 10))]
    totals, every = add_up(sessions, histories, hours(0, 12))
    assert [(t.gateway, t.interface, t.share) for t in totals] == [("x", "wg0", 0.25), ("x", "wg1", 0.25), ("y", "wg0", 0.5)]
    assert (every.sessions, every.online_s, every.share) == (3, 3 * H, 0.3)


def test_addresses_are_counted_without_ports() -> None:
    ends = [("192.0.2.1:1", "192.0.2.1:2"), ("[2001:db8::7]:1", "192.0.2.1:3"), ()]
    assert one([session(n, n + 1, endpoints=e) for n, e in enumerate(ends)]).addresses == 2


def test_the_same_address_of_two_peers_is_one() -> None:
    totals, every = add_up([session(0, 1, "a"), session(0, 1, "b")], [history()], WEEK)
    assert ([total.addresses for total in totals], every.addresses) == ([1, 1], 1)


def test_bytes_that_a_text_trail_lacks_are_unknown() -> None:
    unknown = session(0, 1, received=None, sent=None)
    assert (one([unknown]).received_bytes, one([unknown]).sent_bytes) == (None, None)
    assert one([unknown, session(2, 3), unknown]).received_bytes == 100


def by(unit: str, *sessions: Session, period: Period = WEEK, gaps: Sequence[Gap] = (), watch: Period = WEEK) -> List[Usage]:
    return list(add_up_by(unit, sessions, [history(*gaps, period=watch)], period, Zone()))


def test_usage_by_day() -> None:
    with zone("UTC"):
        usage = by("day", session(1, 2), session(3, 5, "b"), session(6, 7), session(49, 50), period=hours(0, 72))
    assert usage == [
        Usage("2026-11-02", MONDAY, MONDAY + 24 * H, 3, 2, 4 * H, 300, 30, False, 0.0),
        Usage("2026-11-03", MONDAY + 24 * H, MONDAY + 48 * H, 0, 0, 0.0, None, None, False, 0.0),
        Usage("2026-11-04", MONDAY + 48 * H, MONDAY + 72 * H, 1, 1, H, 100, 10, False, 0.0),
    ]


def test_a_session_over_midnight_counts_in_both_days_with_its_bytes_spread_over_its_time() -> None:
    with zone("UTC"):
        usage = by("day", session(23, 26, received=101, sent=None), session(30, 31), period=hours(0, 48))
    assert [(u.sessions, u.peers, u.online_s, u.received_bytes, u.sent_bytes, u.estimated) for u in usage] == [
        (1, 1, H, 33, None, True),
        (2, 1, 3 * H, 68 + 100, 10, True),
    ]


def test_what_lies_beyond_the_period_is_not_in_it() -> None:
    with zone("UTC"):
        usage = by("day", session(-10, 10), session(40, 60), period=hours(0, 50))
    assert [(u.start - MONDAY, u.stop - MONDAY, u.online_s, u.received_bytes) for u in usage] == [
        (0, 24 * H, 10 * H, 50),
        (24 * H, 48 * H, 8 * H, 40),
        (48 * H, 50 * H, 2 * H, 10),
    ]


def test_a_single_handshake_at_midnight_belongs_to_the_new_day() -> None:
    with zone("UTC"):
        usage = by("day", session(24, 24), period=hours(0, 48))
    assert [(u.sessions, u.received_bytes, u.estimated) for u in usage] == [(0, None, False), (1, 100, False)]


def test_a_session_that_ends_at_midnight_belongs_to_the_old_day() -> None:
    with zone("UTC"):
        assert [u.sessions for u in by("day", session(20, 24), period=hours(0, 48))] == [1, 0]


def test_a_session_whose_end_lies_before_its_beginning_counts_on_the_day_on_which_it_began() -> None:
    with zone("UTC"):
        usage = by("day", session(25, 20, length=H), session(26, 27), period=hours(0, 48))
    assert [(u.sessions, u.online_s) for u in usage] == [(0, 0.0), (2, 2 * H)]


def test_time_not_watched_is_that_of_any_interface() -> None:
    with zone("UTC"):
        usage = by(
            "day", session(1, 2), period=hours(0, 72), gaps=[gap(10, 14, "wg0"), gap(12, 15), gap(40, 50)], watch=hours(2, 60)
        )
    assert [(u.start, u.stop - u.start, u.unwatched_s) for u in usage] == [
        (MONDAY + H, 23 * H, 6 * H),  # from the beginning of the first session
        (MONDAY + 24 * H, 24 * H, 8 * H),
        (MONDAY + 48 * H, 12 * H, 2 * H),  # to the last reading
    ]


def test_usage_without_sessions_shows_when_somebody_watched() -> None:
    with zone("UTC"):
        usage = by("day", watch=hours(12, 36), period=Period())
    assert [(u.unit, u.stop - u.start, u.sessions) for u in usage] == [("2026-11-02", 12 * H, 0), ("2026-11-03", 12 * H, 0)]


def test_usage_outside_the_history_is_nothing() -> None:
    with zone("UTC"):
        assert by("day", watch=hours(0, 24), period=hours(48, 72)) == []


def test_two_gateways_are_watched_together_when_both_are() -> None:
    histories = [history(period=hours(0, 10), gateway="x"), history(gap(6, 8), period=hours(5, 24), gateway="y")]
    with zone("UTC"):
        (usage,) = add_up_by("day", [session(1, 2, gateway="x")], histories, hours(0, 24), Zone())
    assert usage.unwatched_s == 24 * H - 3 * H


def test_units_are_those_of_the_calendar() -> None:
    with zone("CET-1CEST,M3.5.0,M10.5.0/3"):
        autumn = by("day", session(-192 - 2, -144 - 1), period=Period(), watch=hours(-194, -145))
        spring = by("day", session(-5233, -5186), period=Period(), watch=hours(-5233, -5186))
        weeks = by("week", session(-30, 200), period=Period(), watch=hours(-30, 200))
        months = by("month", session(-24 * 40, 24 * 40), period=Period(), watch=hours(-24 * 40, 24 * 40))
    assert [(u.unit, u.online_s / H) for u in autumn] == [("2026-10-25", 25), ("2026-10-26", 24)]
    assert [(u.unit, u.online_s / H) for u in spring] == [("2026-03-29", 23), ("2026-03-30", 24)]
    assert [(u.unit, u.online_s / H) for u in weeks] == [("2026-W44", 29), ("2026-W45", 168), ("2026-W46", 33)]
    assert [u.unit for u in months] == ["2026-09", "2026-10", "2026-11", "2026-12"]
    assert [(months[1].stop - months[1].start) / H, (months[2].stop - months[2].start) / H] == [31 * 24 + 1, 30 * 24]


def test_sessions_in_no_order_at_all_add_up_to_the_same() -> None:
    sessions = [session(5 * n, 5 * n + 20, "abc"[n % 3]) for n in range(30)]
    with zone("UTC"):
        in_order = by("day", *sessions, watch=hours(0, 170), period=Period())
        assert by("day", *reversed(sessions), watch=hours(0, 170), period=Period()) == in_order
        assert by("day", *reversed(sessions), watch=hours(0, 170), period=hours(3, 100)) == by(
            "day", *sessions, watch=hours(0, 170), period=hours(3, 100)
        )
    assert len(in_order) == 8


def test_too_many_days_are_refused_and_months_are_not() -> None:
    with zone("UTC"):
        with pytest.raises(Refusal) as refused:
            by("day", session(0, 24 * 50_000), period=Period())
        assert "--by day: there are more than 40000 of them" in str(refused.value)
        assert len(by("month", session(0, 24 * 50_000), period=Period())) > 1600
        with pytest.raises(Refusal):
            by("month", session(0, 0)._replace(start=253_402_300_799.0, until=253_402_300_799.0), period=Period())


def test_the_first_days_of_a_year_belong_to_an_iso_week_of_the_other() -> None:
    with zone("UTC"):
        new_year = by("week", session(1440, 1441), period=hours(1440, 1488))  # 2027-01-01, a Friday
    assert [u.unit for u in new_year] == ["2026-W53"]


@pytest.mark.parametrize("unit", ["day", "week", "month"])
def test_units_add_up_to_the_whole(unit: str) -> None:
    """Sums over the units of a period that holds everything are those of the sessions."""
    chance = random.Random(7)
    sessions = []
    for _ in range(300):
        start = chance.uniform(0, 24 * 70)
        end = start + chance.choice((0.0, 0.5, 30.0, chance.uniform(0, 24 * 40)))
        sessions.append(session(start, end, chance.choice("abc"), received=chance.randrange(10**17), sent=chance.randrange(9)))
    sessions.sort(key=lambda s: s.start)
    with zone("CET-1CEST,M3.5.0,M10.5.0/3"):
        usage = by(unit, *sessions, period=Period(), watch=hours(0, 24 * 120))
    assert sum(u.received_bytes or 0 for u in usage) == sum(s.received or 0 for s in sessions)
    assert sum(u.sent_bytes or 0 for u in usage) == sum(s.sent or 0 for s in sessions)
    assert sum(u.online_s for u in usage) == pytest.approx(sum(s.length for s in sessions))
    assert all(earlier.stop == later.start for earlier, later in zip(usage, usage[1:]))
    borders: List[Tuple[float, float]] = [(u.start, u.stop) for u in usage]
    for (start, stop), u in zip(borders, usage):
        inside = [s for s in sessions if s.start < stop and (s.until > start or s.start >= start)]
        assert (u.sessions, u.peers) == (len(inside), len({s.peer for s in inside}))
        assert u.estimated is any(s.start < start or s.until > stop for s in inside)
