"""report.html in a real browser: it sorts, filters and moves tau, with the CSV's numbers, no errors and no requests."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from patience import until

from analysis.figures import style
from analysis.page.data import page_data
from analysis.records.load import load
from analysis.report import write_report
from analysis.statistics.curves import curves, mean_rows
from analysis.statistics.metric import metric_of
from analysis.statistics.study import study

pytestmark = pytest.mark.slow

TAUS = (0.0, 0.5, 1.0)
EVIL = "<img src=x onerror=alert(1)></script><script>alert(2)</script>{{ 7 * 7 }}"
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update",
)  # fmt: skip
LABELS = np.array([0, 1] * 20)


def predicted(seed: int, sharpness: float, draws: int = 1) -> Any:
    generator = np.random.default_rng(seed)
    logits = generator.normal(size=(draws, 40, 2)) + sharpness * np.eye(2)[LABELS]
    return (logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))).astype(np.float32)


def fill(store: Any) -> None:
    """Two tasks and seeds: a reference, a baseline whose fit warns, a Gaussian method with its mean and its curve."""
    for task in ("one", "two"):
        for seed in (1, 2):
            number = seed + 10 * (task == "two")
            store.add(store.spec("optimum", task, seed), log_probs=predicted(number, 3.0), labels=LABELS, trained=False)
            store.add(
                store.spec("adamw", task, seed), log_probs=predicted(number, 0.5), labels=LABELS, warnings=(EVIL,)
            )
            for tau in TAUS:
                purpose = "result" if tau == 1 else "sweep"
                spec = store.spec("gauss", task, seed, options={"tau": tau, "note": EVIL}, purpose=purpose)
                rows = predicted(number, 2.5 - tau, 4 if tau else 1)
                store.add(spec, log_probs=rows, labels=LABELS)
                if tau == 0:
                    mean = store.spec("gauss_mean", task, seed, fit_method="gauss")
                    store.add(mean, log_probs=rows, labels=LABELS)


def rows_of(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory, store_at: Any) -> Path:
    """A report of two tasks."""
    root = tmp_path_factory.mktemp("page")
    store = store_at(root / "runs")
    fill(store)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(style.SETTINGS, "pdf.fonttype", 3)  # faster
        write_report(store.root, root / "report")
    return root / "report"


@pytest.fixture(scope="module")
def browser(report: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Chromium with the report open; everything that it requests and logs is recorded."""
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not (chromium and driver):
        sentence = "no Chromium: apt-get install -y --no-install-recommends chromium chromium-driver"
        if os.environ.get("BENCH_REQUIRE_BROWSER"):
            pytest.fail(sentence)
        pytest.skip(sentence)
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}", "--window-size=1280,1000"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    chrome = webdriver.Chrome(options=options, service=Service(driver))
    try:
        yield chrome
    finally:
        chrome.quit()


@pytest.fixture
def page(browser: Any, report: Path) -> Any:
    """The report, freshly loaded."""
    browser.get("about:blank")
    browser.get((report / "report.html").as_uri())
    wait_for(browser, "document.readyState === 'complete' && document.querySelector('#table tbody tr') !== null")
    return browser


def texts(page: Any, selector: str) -> list[str]:
    return page.execute_script(
        "return [...document.querySelectorAll(arguments[0])].map((element) => element.textContent)", selector
    )


def wait_for(page: Any, sentence: str) -> None:
    """Wait until a JavaScript expression is true: the page reacts to an address in its own time."""
    until(lambda: page.execute_script(f"return {sentence}"))


OPEN = "document.getElementById('details').open"


def choose(page: Any, name: str, value: str) -> None:
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import Select

    Select(page.find_element(By.ID, f"filter-{name}")).select_by_value(value)


def cells(page: Any) -> dict[tuple[str, str, str], tuple[str, str]]:
    """(method, task, metric) to the shown text and the CSV's."""
    found = page.execute_script(
        """return [...document.querySelectorAll('#table tbody tr')].flatMap((row) =>
            [...row.querySelectorAll('td[data-metric]')].map((cell) => [
                row.querySelector('th a').textContent, row.cells[1].textContent, cell.dataset.metric,
                cell.querySelector('a').textContent, cell.dataset.csv]))"""
    )
    return {(method, task, metric): (text, exact) for method, task, metric, text, exact in found}


def expected(row: dict[str, str]) -> tuple[str, str]:
    return metric_of(row["metric"]).show(float(row["mean"])), row["mean"]


def test_the_table_is_results_csv(page: Any, report: Path) -> None:
    rows = rows_of(report / "tables" / "results.csv")
    assert cells(page) == {(row["method"], row["eval_task"], row["metric"]): expected(row) for row in rows}


def test_a_heading_sorts_both_ways_by_keyboard(page: Any, report: Path) -> None:
    from selenium.webdriver.common.keys import Keys

    column = "#table th[data-column='nll']"
    exact = sorted(float(row["mean"]) for row in rows_of(report / "tables" / "results.csv") if row["metric"] == "nll")
    for direction, wanted in (("ascending", exact), ("descending", exact[::-1])):
        page.find_element("css selector", f"{column} button").send_keys(Keys.ENTER)
        assert page.find_element("css selector", column).get_attribute("aria-sort") == direction
        shown = page.execute_script(
            "return [...document.querySelectorAll(\"#table td[data-metric='nll']\")].map((cell) => +cell.dataset.csv)"
        )
        assert shown == wanted
        assert page.switch_to.active_element.text.startswith("NLL")  # focus stays for the next press


def test_filters(page: Any) -> None:
    choose(page, "task", "two")
    assert {task for _, task, _ in cells(page)} == {"two"} and texts(page, "#count") == ["4 of 8 rows"]
    choose(page, "metric", "ece")
    assert {metric for _, _, metric in cells(page)} == {"ece"}
    choose(page, "model", "embedded")
    assert len(cells(page)) == 4
    choose(page, "task", "")
    assert len(cells(page)) == 8


def test_the_slider_moves_gaussian_rows_to_the_numbers_of_tau_csv(page: Any, report: Path) -> None:
    from selenium.webdriver.common.keys import Keys

    stored = rows_of(report / "tables" / "tau.csv")
    assert {row["tau"] for row in stored} == {"0", "0.5", "1"}
    before = cells(page)
    slider = page.find_element("id", "tau")
    for tau in ("0.5", "0"):
        slider.send_keys(Keys.ARROW_LEFT)
        assert texts(page, "#tau-value") == [f"τ = {tau}"]
        now = cells(page)
        moved = {(row["method"], row["task"], row["metric"]): expected(row) for row in stored if row["tau"] == tau}
        assert {place: now[place] for place in moved} == moved
        assert {place: now[place] for place in now if place not in moved} == {
            place: before[place] for place in now if place not in moved
        }
        assert any(now[place] != before[place] for place in moved)
    page.find_element("id", "reported").click()
    assert cells(page) == before and texts(page, "#tau-value") == ["as reported"]


def test_a_row_opens_its_reliability_diagram_records_and_settings(page: Any, report: Path) -> None:
    from selenium.webdriver.common.keys import Keys

    def shown() -> list[Any]:
        """The links of that name that the browser has drawn by now."""
        return [link for link in page.find_elements("css selector", "#table tbody th a") if link.text == "gauss"]

    until(shown)[0].send_keys(Keys.ENTER)
    wait_for(page, OPEN)
    assert texts(page, "#details-title") == ["gauss on one, τ = 1"]
    bars = page.execute_script("return document.getElementById('reliability').data[0].customdata")
    assert sum(bars) == 80  # 40 examples, 2 seeds
    (row,) = [
        row
        for row in rows_of(report / "tables" / "results.csv")
        if (row["method"], row["task"], row["metric"]) == ("gauss", "one", "nll")
    ]
    assert row["mean"] in texts(page, ".records td[data-metric='nll']")
    assert [key for key in row["keys"].split() if key in texts(page, ".records code")] == row["keys"].split()
    for target in page.execute_script("return [...document.querySelectorAll('.records a')].map((a) => a.href)"):
        file = Path(target.removeprefix("file://"))
        assert file.is_file() and json.loads(file.read_text())
    assert "options.tau" in texts(page, ".settings th")
    page.switch_to.active_element.send_keys(Keys.ESCAPE)
    wait_for(page, f"!{OPEN} && document.activeElement.textContent === 'gauss'")
    page.find_element("css selector", "td[data-metric='ece'] a").click()
    wait_for(page, f"{OPEN} && document.querySelectorAll('.records td.chosen').length === 4")  # 2 seeds, mean, error


@pytest.mark.parametrize("width", [1280, 390])
def test_no_horizontal_scroll(page: Any, width: int) -> None:
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    try:
        for _ in range(2):  # the page, then a row's details
            wide = "return [document.documentElement.scrollWidth, document.getElementById('details').scrollWidth]"
            assert max(page.execute_script(wide)) <= width
            page.execute_script("document.querySelector('td a.number').click()")
            wait_for(page, OPEN)
    finally:
        page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def images_load(page: Any) -> bool:
    """Whether every figure decodes to a picture, also those that the browser would load only once they are in view."""
    page.execute_script("for (const image of document.images) image.loading = 'eager'")
    decoded = "Promise.all([...document.images].map((image) => image.decode().then(() => image.naturalWidth > 100)))"
    widths = page.execute_async_script(f"{decoded}.then(arguments[0], (error) => arguments[0]([String(error)]))")
    return bool(widths) and all(wide is True for wide in widths)


def test_records_are_text_and_the_page_is_silent(page: Any) -> None:
    """What a record says is shown as it is: nothing runs, nothing is fetched, nothing is logged."""
    assert any(EVIL in text for text in texts(page, ".warnings li"))
    page.execute_script("[...document.querySelectorAll('#table th a')].find((a) => a.textContent === 'gauss').click()")
    wait_for(page, OPEN)
    page.execute_async_script("setTimeout(arguments[0], 300)")  # time for what must not happen
    assert EVIL in texts(page, ".settings td")
    assert page.find_elements("css selector", "img[src='x']") == []
    assert images_load(page)
    assert page.get_log("browser") == []
    sent = [json.loads(entry["message"])["message"] for entry in page.get_log("performance")]
    requests = [message["params"] for message in sent if message["method"] == "Network.requestWillBeSent"]
    # the browser's own start page has a frame in it
    ours = [r for r in requests if not r["documentURL"].startswith(("chrome://", "chrome-untrusted://"))]
    urls = [request["request"]["url"] for request in ours]
    assert any(url.endswith("/report.html") for url in urls)
    assert all(re.match(r"file:.*/report\.html|data:|about:", url) for url in urls), urls
    assert not [message for message in sent if message["method"].startswith("Network.webSocket")]


def test_the_mean_is_found_on_the_curve_whatever_its_name(store: Any) -> None:
    fill(store)
    loaded = load(store.root)
    for curve in curves([*loaded.results, *loaded.sweeps]):
        assert [tau for tau, _ in curve] == list(TAUS)
        assert [group.name for group in mean_rows(curve, loaded.results)] == ["gauss_mean"]


def test_damaged_predictions_are_said_to_be(store: Any, tmp_path: Path) -> None:
    """The run is left out of everything, and named."""
    fill(store)
    group = next(g for g in load(store.root).results if g.name == "gauss")
    file = group.records[0].folder / "predictions.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    whole = study(store.root)
    data = page_data(whole, tmp_path)
    seeds = {(row["method"], row["task"]): len(data["points"][row["point"]]["records"]) for row in data["rows"]}
    assert [place for place, count in seeds.items() if count == 1] == [("gauss", group.task)]
    assert len(whole.runs.excluded) == 1 and group.records[0].key in whole.runs.excluded[0]
