"""The page, in a browser: what it shows, that it follows what happens, and what its buttons do."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest

from clonedb.service.cloning import Service
from clonedb.settings.config import Config
from tests.embedded.sandbox import wait_until
from tests.service.site import Site
from tests.service.stories import dsn, filled, lent, ready

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

HOSTILE = "<img src=x onerror=document.title='taken'> '\"\u2028 a hash"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    """Chromium, without a window."""
    program, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not program or not driver:
        pytest.skip("needs Chromium and its driver (Debian: chromium, chromium-driver)")
    from selenium.webdriver import Chrome, ChromeOptions, ChromeService

    options = ChromeOptions()
    options.binary_location = program
    profile = tmp_path_factory.mktemp("chromium")
    for argument in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        f"--user-data-dir={profile}",
    ):
        options.add_argument(argument)
    chrome = Chrome(options, ChromeService(driver))
    yield chrome
    chrome.quit()


def shown(browser: Chrome, section: int) -> list[list[str]]:
    """The rows of a table: templates, leases, events."""
    rows: list[list[str]] = browser.execute_script(
        """
        const section = document.querySelectorAll("section")[arguments[0]];
        return [...section.querySelectorAll("tbody tr")].map(
            row => [...row.cells].map(cell => cell.textContent.trim().replace(/\\s+/g, " ")));
        """,
        section,
    )
    return rows


async def kept(service: Service) -> list[bool]:
    """Of each lease, whether it is kept."""
    return [one.kept for one in service.leases()]


def press(browser: Chrome, label: str) -> None:
    """Press the first button of a label, and say yes to what it asks."""
    browser.execute_script(
        """
        window.confirm = () => true;
        [...document.querySelectorAll("button")].find(one => one.textContent === arguments[0]).click();
        """,
        label,
    )


def texts(rows: list[list[str]]) -> str:
    """All of a table."""
    return "\n".join(" | ".join(row) for row in rows)


@pytest.mark.campaign("long")
def test_the_page_follows_what_happens(site: Site, browser: Chrome) -> None:
    """A template that is filled, a database that is lent and comes back: shown without a reload."""
    browser.get(site.url)
    wait_until(lambda: browser.execute_script("return live.dataset.state") == "live")
    assert shown(browser, 0) == shown(browser, 1) == []
    browser.execute_script("window.same = true")
    site.run(filled(site.service, "the-hash"))
    wait_until(lambda: shown(browser, 0) != [] and shown(browser, 0)[0][1] == "ready")
    assert shown(browser, 0)[0][0] == "the-hash"
    lease = site.run(lent(site.service, "the-hash"))
    wait_until(lambda: len(shown(browser, 1)) == 1)
    row = shown(browser, 1)[0]
    assert row[:4] == [str(lease.id), lease.address.database, "the-hash", "tester"]
    assert "never" in row
    assert lease.address.password not in browser.page_source
    site.run(site.service.release(lease.lease))
    wait_until(lambda: shown(browser, 1) == [])
    wait_until(lambda: "built | the-hash" in texts(shown(browser, 2)))
    assert browser.execute_script("return window.same"), "the page was loaded anew"
    errors = [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]  # type: ignore[no-untyped-call]
    assert errors == []


def test_a_hash_is_no_markup(site: Site, browser: Chrome) -> None:
    """What callers name their templates is shown, and never run."""
    site.run(filled(site.service, HOSTILE))
    browser.get(site.url)
    wait_until(lambda: browser.execute_script("return live.dataset.state") == "live")
    title = browser.execute_script("return document.querySelector('td code').title")
    assert title.split() == HOSTILE.split()
    assert browser.title == "clonedb"
    assert browser.execute_script("return document.querySelectorAll('img').length") == 0


def test_a_lease_is_looked_into_kept_and_dropped(site: Site, browser: Chrome) -> None:
    """The line for psql works, a kept database stays after its time, and a dropped one is gone."""
    site.run(filled(site.service, "abc"))
    lease = site.run(lent(site.service, "abc"))
    browser.get(site.url)
    wait_until(lambda: len(shown(browser, 1)) == 1)
    line: str = browser.execute_async_script(
        """
        const done = arguments[arguments.length - 1];
        fetch("page/psql", { method: "POST", body: new URLSearchParams({ lease: arguments[0] }) })
            .then(reply => reply.text()).then(done);
        """,
        lease.lease,
    )
    program, url = line.split(" ", 1)
    assert program == "psql"
    with psycopg.connect(url.strip("'")) as connection:
        assert connection.info.dbname == lease.address.database
    press(browser, "keep")
    wait_until(lambda: "kept" in texts(shown(browser, 1)))
    assert site.run(kept(site.service)) == [True]
    press(browser, "drop")
    wait_until(lambda: shown(browser, 1) == [])
    with pytest.raises(psycopg.OperationalError, match="does not exist"):
        psycopg.connect(dsn(lease.address))


def test_a_service_that_has_gone_is_told_of(service_config: Config, browser: Chrome) -> None:
    """What is shown is old then, and the page says so."""
    with Site(service_config) as site:
        browser.get(site.url)
        wait_until(lambda: browser.execute_script("return live.dataset.state") == "live")
    wait_until(
        lambda: (
            "no connection to the service" in browser.execute_script("return live.textContent")
        )
    )


def test_it_is_readable_on_a_telephone(site: Site, browser: Chrome) -> None:
    """Nothing is wider than the screen; each value has its column's name beside it."""
    site.run(filled(site.service, "a" * 120))
    site.run(ready(site.service, "a" * 120))
    site.run(lent(site.service, "a" * 120))
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True},
    )
    try:
        browser.get(site.url)
        wait_until(lambda: len(shown(browser, 1)) == 1)
        width, screen = browser.execute_script(
            "return [document.documentElement.scrollWidth, document.documentElement.clientWidth]"
        )
        assert width <= screen == 390
        label = browser.execute_script(
            "return getComputedStyle(document.querySelector('td'), '::before').content"
        )
        assert label == '"Template"'
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_all_assets_are_in_the_package() -> None:
    """No step builds them, and none comes from another host."""
    directory = Path(__file__).parents[2] / "clonedb" / "service" / "http" / "assets"
    for file in directory.iterdir():
        assert "://" not in file.read_text(), file.name
    assert {file.name for file in directory.iterdir()} == {
        "login.html",
        "openapi.json",
        "page.html",
        "page.js",
        "style.css",
        "tables.html",
    }
