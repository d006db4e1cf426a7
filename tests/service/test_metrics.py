"""`/metrics`: what is counted, after each thing that is."""

from __future__ import annotations

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.service.site import Site
from tests.service.stories import filled, lent, ready, run_sql


def measured(site: Site) -> dict[tuple[str, ...], float]:
    """Each sample by its name and the values of its labels."""
    answer = site.ask("GET", "/metrics")
    assert answer.status == 200
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(answer.body.decode())
        for sample in family.samples
    }


def test_what_is_counted(site: Site) -> None:
    """Gets by result and in seconds, clones and templates by state, builds, resets, the server's sessions."""
    assert site.ask("GET", "/templates/nobody/tests").status == 404
    found = measured(site)
    assert found["clonedb_gets_total", "unknown"] == 1
    assert found["clonedb_builds_total",] == 0
    assert found["clonedb_server_sessions",] >= 1
    site.run(filled(site.service))
    site.run(ready(site.service))
    got = [site.ask("GET", "/templates/abc/tests").json["id"] for _ in range(2)]
    found = measured(site)
    assert found["clonedb_templates", "ready"] == 1
    assert found["clonedb_clones", "leased"] == 2
    assert found["clonedb_gets_total", "handed_out"] == 2
    assert found["clonedb_get_seconds_count",] == 2
    assert found["clonedb_builds_total",] == 1
    assert found["clonedb_build_seconds_total",] > 0
    assert ("clonedb_server_bytes",) in found
    assert found["clonedb_waiting",] == 0
    assert site.ask("DELETE", f"/templates/abc/tests/{got[0]}").status == 204
    lease = site.run(lent(site.service))
    run_sql(lease.address, "delete from item")
    site.run(site.service.release(lease.lease))
    lease = site.run(lent(site.service))
    run_sql(lease.address, "drop table item")
    site.run(site.service.release(lease.lease))
    site.run(site.service.discard("abc"))
    found = measured(site)
    assert found["clonedb_resets_total", "untouched", ""] == 1
    assert found["clonedb_resets_total", "rewound", ""] == 1
    refused = [name for name in found if name[:2] == ("clonedb_resets_total", "refused")]
    assert len(refused) == 1
    assert "item" not in refused[0][2]
    assert found["clonedb_events_total", "built"] == 1


def test_without_a_server(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the service knows by itself is there still, and it is not ready."""
    from clonedb.service.contract import UnavailableError

    async def ping() -> dict[str, float]:
        raise UnavailableError("the server is gone")

    monkeypatch.setattr(site.service, "ping", ping)
    found = measured(site)
    assert found["clonedb_clones", "leased"] == 0
    assert ("clonedb_server_sessions",) not in found
    answer = site.ask("GET", "/readyz")
    assert (answer.status, answer.json) == (503, {"message": "the server is gone"})
    assert site.ask("GET", "/healthz").status == 200
