"""Reports in a real browser: what must be there is, nothing is loaded, nothing goes wrong.

Quantizes and times the bundled model, makes reports of one record and of two, and of a record with hostile names, and
opens each in headless Chromium by way of Playwright: light, dark, on a narrow screen and as print.

    report_check.py --qcc target/ci/qcc [--keep FOLDER]
    report_check.py --can-run        says in a word what is missing, if anything is
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "tests/models/books1M"
BROWSERS = ("chromium-headless-shell", "chromium", "google-chrome", "chromium-browser")
HOSTILE = "<script>document.title='taken'</script><img src=x onerror=\"document.title='taken'\">'\"&"

# Texts of a chart that reach out of it, and pairs that lie on each other.
LABELS = """() => {
  const cut = [], over = [];
  for (const svg of document.querySelectorAll('svg[role=img]')) {
    const frame = svg.getBoundingClientRect();
    const all = [...svg.querySelectorAll('text')].filter(it => it.textContent.trim())
      .map(it => [it.textContent, it.getBoundingClientRect()]);
    for (const [text, at] of all)
      if (at.left < frame.left - 1 || at.right > frame.right + 1 || at.top < frame.top - 1 || at.bottom > frame.bottom + 1)
        cut.push(text);
    all.forEach(([text, a], i) => all.slice(i + 1).forEach(([other, b]) => {
      const wide = Math.min(a.right, b.right) - Math.max(a.left, b.left);
      const high = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
      if (wide > 1 && high > 3) over.push(text + ' / ' + other);
    }));
  }
  return [cut, over];
}"""

SCREENS = {
    "light": {"width": 1280, "color_scheme": "light", "media": "screen"},
    "dark": {"width": 1280, "color_scheme": "dark", "media": "screen"},
    "narrow": {"width": 360, "color_scheme": "light", "media": "screen"},
    "print": {"width": 794, "color_scheme": "dark", "media": "print"},
}


def browser_path():
    return next((path for path in map(shutil.which, BROWSERS) if path), None)


def missing():
    """What this machine lacks, or None."""
    try:
        import playwright.sync_api  # noqa: F401
    except ImportError:
        return "no playwright"
    return None if browser_path() else "no chromium"


def records(binary, folder):
    """Records of two runs, the first one with its quality, and one with everything and hostile names."""
    from checks import qcc

    for recipe, bits in (("rtn", "-b4"), ("kl", "-b4"), ("budget", "--bpw=4.5")):
        qcc(
            binary, MODEL / "model.onnx", "-O", recipe.replace("budget", "rtn"), bits, "-o", folder / f"{recipe}.onnx",
            "--record", folder / f"{recipe}.json", "--report", folder / f"{recipe}.html", "-q",
        )  # fmt: skip
        text = qcc(
            binary, "eval", folder / f"{recipe}.onnx", "--ref", MODEL / "model.onnx",
            "--data", MODEL / "eval.npy", "-n", "2", "--json",
        )  # fmt: skip
        (folder / f"{recipe}.eval.json").write_text(text)
    text = qcc(
        binary, "bench", folder / "kl.onnx", "--ref", MODEL / "model.onnx", "-m", "1,16", "--runs", "3", "--json",
    )  # fmt: skip
    (folder / "kl.bench.json").write_text(text)
    speed = json.loads(text)
    for layer in speed["layers"]:
        layer["name"] = HOSTILE + layer["name"]
    (folder / "hostile.bench.json").write_text(json.dumps(speed))
    record = json.loads((folder / "budget.json").read_text())
    for i, row in enumerate(record["weights"]):
        row["name"] = HOSTILE + row["name"]
        row["activations"] = {"largest": 20.0 * (i % 3) + 1, "median": 1.0, "beyond": 0.001}
        row["sites"] = [HOSTILE + it for it in row["sites"]]
    for row in record["histograms"] + record["heat_maps"]:
        row["name"] = HOSTILE + row["name"]
    record["input"] = record["output"] = HOSTILE
    steps = [[step, 1 / (1 + step / 50)] for step in range(0, 200, 5)]
    record["blocks"] = [{"name": f"{HOSTILE} {i}", "steps": 200, "objective": steps} for i in range(4)]
    record["gates"] = [{"gate": "ppl:+2%", "found": HOSTILE, "passed": False}]
    (folder / "hostile.json").write_text(json.dumps(record))


class Page:
    """A report in a browser. Whatever it loads or complains of is kept."""

    def __init__(self, browser, path, screen):
        self.requests, self.errors = [], []
        context = browser.new_context(
            viewport={"width": screen["width"], "height": 900}, color_scheme=screen["color_scheme"]
        )
        self.page = context.new_page()
        self.page.emulate_media(media=screen["media"], color_scheme=screen["color_scheme"])
        self.page.on("request", lambda it: self.requests.append(it.url))
        self.page.on("console", lambda it: self.errors.append(it.text) if it.type in ("error", "warning") else None)
        self.page.on("pageerror", lambda it: self.errors.append(str(it)))
        self.page.goto(path.as_uri(), wait_until="load")

    def count(self, selector):
        return self.page.locator(selector).count()

    def close(self):
        self.page.context.close()


def check_screen(browser, path, name, keep):
    """Nothing is loaded but the page, nothing is wider than the screen, text can be read."""
    from checks import expect

    page = Page(browser, path, SCREENS[name])
    try:
        loaded = [it for it in page.requests if not it.startswith("data:")]
        expect(loaded == [path.as_uri()], f"loads {loaded}")
        expect(not page.errors, f"complains: {page.errors[:3]}")
        wide = page.page.evaluate("document.documentElement.scrollWidth - innerWidth")
        expect(name == "print" or wide <= 0, f"{wide} pixels wider than the screen")
        fg, bg = page.page.evaluate(
            "[getComputedStyle(document.querySelector('svg[role=img] text')).fill,"
            " getComputedStyle(document.body).backgroundColor]"
        )
        expect(contrast(fg, bg) >= 7, f"text of charts has {contrast(fg, bg):.1f} to 1: {fg} on {bg}")
        if keep:
            page.page.screenshot(path=keep / f"{path.stem}-{name}.png", full_page=True)
    finally:
        page.close()


def contrast(a, b):
    """Contrast of two colors 'rgb(r, g, b)', as WCAG 2 has it."""

    def luminance(text):
        channels = [int(it) / 255 for it in text[text.index("(") + 1 : -1].split(",")[:3]]
        linear = [it / 12.92 if it <= 0.04045 else ((it + 0.055) / 1.055) ** 2.4 for it in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(a), luminance(b)))
    return (high + 0.05) / (low + 0.05)


def check_content(browser, path, figures):
    """The figures that must be there, each chart with words, each figure with its table, headings in order."""
    from checks import expect

    page = Page(browser, path, SCREENS["light"])
    try:
        found = page.page.eval_on_selector_all("main > section[id]", "all => all.map(it => it.id)")
        expect(found == figures, f"figures {found}")
        expect(page.page.locator("html").get_attribute("lang") == "en", "no language")
        charts, named = page.count("svg[role=img]"), page.page.eval_on_selector_all(
            "svg[role=img]",
            "all => all.filter(it => it.getAttribute('aria-labelledby').split(' ')"
            ".every(id => document.getElementById(id)?.textContent)).length",
        )
        expect(charts > 0 and charts == named, f"{named} of {charts} charts say what they show")
        expect(page.count("svg[role=img] text") > charts, "text of charts is not text")
        bare = page.page.eval_on_selector_all(
            "main > section[id]", "all => all.filter(it => it.querySelector('svg') && !it.querySelector('details table')"
            " && !it.querySelector('table')).map(it => it.id)",
        )
        expect(not bare, f"no table in {bare}")
        levels = page.page.eval_on_selector_all("h1, h2, h3", "all => all.map(it => Number(it.tagName[1]))")
        steps = [b - a for a, b in zip(levels, levels[1:])]
        expect(levels[0] == 1 and levels.count(1) == 1 and max(steps) <= 1, f"headings {levels}")
        return f"{charts} charts"
    finally:
        page.close()


def check_table(browser, path, record):
    """Every weight of the record has its row; sorting and filtering keep them."""
    from checks import expect

    rows = [it for it in json.loads(record.read_text())["weights"] if it["bits"] is not None]
    page = Page(browser, path, SCREENS["light"])
    try:
        table = page.page.locator("#error details").first
        table.locator("summary").click()
        cells = table.locator("tbody tr").evaluate_all("all => all.map(it => [...it.cells].map(c => c.textContent))")
        expect(len(cells) == len(rows), f"{len(cells)} rows, {len(rows)} weights")
        for cell, row in zip(cells, rows):
            want = [f"[{row['k']}, {row['n']}]", str(row["bits"]), f"{row['snr_db']:.2f}"]
            expect([cell[4], cell[5], cell[10]] == want, f"{cell} is not {want}")
        table.locator("th button", has_text="SNR, dB").first.click()
        snr = [float(it) for it in table.locator("tbody tr td:nth-child(11)").all_text_contents()]
        expect(snr == sorted(snr), "sorting does not sort")
        table.locator("input").fill(max((it["sites"][0] for it in rows), key=len))
        left = table.locator("tbody tr:visible").count()
        expect(0 < left < len(rows), f"a filter leaves {left}")
        table.locator("input").fill("")
        expect(table.locator("tbody tr:visible").count() == len(rows), "an empty filter hides rows")
    finally:
        page.close()


def check_labels(browser, path):
    """No label of a chart is cut, and none lies on another one."""
    from checks import expect

    page = Page(browser, path, SCREENS["light"])
    try:
        cut, over = page.page.evaluate(LABELS)
        expect(not cut, f"{len(cut)} labels are cut: {cut[:3]}")
        expect(not over, f"{len(over)} labels lie on others: {over[:3]}")
    finally:
        page.close()


def check_activations(browser, path, record):
    """The table has what the record has of each weight."""
    from checks import expect

    rows = [it for it in json.loads(record.read_text())["weights"] if it.get("activations")]
    page = Page(browser, path, SCREENS["light"])
    try:
        cells = page.page.locator("#activations tbody tr").evaluate_all(
            "all => all.map(it => [...it.cells].map(c => c.textContent))"
        )
        expect(rows and len(cells) == len(rows), f"{len(cells)} rows, {len(rows)} weights")
        for cell, row in zip(cells, rows):
            ratio = row["activations"]["largest"] / row["activations"]["median"]
            expect(cell[4] == f"{ratio:.1f}", f"{cell} is not {row['activations']}")
    finally:
        page.close()


def check_hostile(browser, path):
    from checks import expect

    page = Page(browser, path, SCREENS["light"])
    try:
        expect(page.page.title() != "taken", "a name ran as a script")
        expect(page.count("img") == 0 and page.count("script") == 1, "a name became an element")
    finally:
        page.close()


def check_without_script(browser, path):
    """All is there when scripts are not."""
    from checks import expect

    context = browser.new_context(java_script_enabled=False)
    try:
        page = context.new_page()
        page.goto(path.as_uri())
        expect(page.locator("svg[role=img]").first.is_visible(), "no chart")
        expect(page.locator("th button").count() == 0, "a button that does nothing")
        page.locator("#error details summary").first.click()
        expect(page.locator("#error details table").first.is_visible(), "no table")
    finally:
        context.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--qcc", help="the binary")
    parser.add_argument("--keep", type=Path, help="write screenshots here")
    parser.add_argument("--can-run", action="store_true", help="say what is missing")
    args = parser.parse_args()
    if args.can_run:
        lack = missing()
        print(lack or "yes")
        sys.exit(lack is not None)
    from checks import Tally, qcc
    from playwright.sync_api import sync_playwright

    tally = Tally()
    single = ["headline", "size", "error", "histograms", "heat", "activations", "left", "provenance"]
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        folder = Path(folder)
        if args.keep:
            args.keep.mkdir(parents=True, exist_ok=True)
        tally.run("records", records, args.qcc, folder)
        tally.run("report of one", qcc, args.qcc, "report", folder / "kl.json", folder / "kl.eval.json", folder / "kl.bench.json", "-o", folder / "one.html")
        tally.run(
            "report of two", qcc, args.qcc, "report", folder / "rtn.json", folder / "rtn.eval.json",
            folder / "kl.json", folder / "kl.eval.json", "-o", folder / "two.html",
        )  # fmt: skip
        tally.run("report of hostile names", qcc, args.qcc, "report", folder / "hostile.json", folder / "hostile.bench.json", "-o", folder / "hostile.html")
        tally.run("report of a model", qcc, args.qcc, "report", folder / "kl.onnx", "-o", folder / "model.html")
        # Chromium does not start in its own sandbox as root.
        flags = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = playwright.chromium.launch(executable_path=browser_path(), args=flags)
        tally.run("figures of --report", check_content, browser, folder / "kl.html", single)
        tally.run("figures of one", check_content, browser, folder / "one.html", [*single[:6], "speed", *single[6:]])
        two = [single[0], "compare", *single[1:]]
        tally.run("figures of two", check_content, browser, folder / "two.html", two)
        full = [*single[:3], "sensitivity", "budget", *single[3:6], "tuning", "speed", *single[6:]]
        tally.run("figures of everything", check_content, browser, folder / "hostile.html", full)
        tally.run("table of weights", check_table, browser, folder / "one.html", folder / "kl.json")
        tally.run("table of activations", check_activations, browser, folder / "kl.html", folder / "kl.json")
        for name in ("one", "two", "hostile"):
            tally.run(f"labels of {name}", check_labels, browser, folder / f"{name}.html")
        tally.run("hostile names", check_hostile, browser, folder / "hostile.html")
        tally.run("without scripts", check_without_script, browser, folder / "one.html")
        for name in SCREENS:
            for path in ("one", "two", "hostile"):
                tally.run(f"{path}, {name}", check_screen, browser, folder / f"{path}.html", name, args.keep)
        browser.close()
    tally.finish()


if __name__ == "__main__":
    main()
