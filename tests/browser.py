"""A headless Chromium with a profile of its own, driven by selenium."""

from __future__ import annotations

import tempfile
from contextlib import contextmanager
from typing import TYPE_CHECKING

from selenium import webdriver
from selenium.common.exceptions import WebDriverException
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from tests.servers.base import program

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--no-proxy-server",
    "--disable-dev-shm-usage",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip


class Browser:
    """One window."""

    def __init__(self, driver: webdriver.Chrome, url: str) -> None:
        self.driver = driver
        self.url = url

    def size(self, width: int, height: int = 900) -> None:
        """Set the size of the page itself; windows cannot be as narrow as phones, whose scroll bars float."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)

    def dark(self, on: bool = True) -> None:
        """Prefer dark colours."""
        feature = {"name": "prefers-color-scheme", "value": "dark" if on else "light"}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})

    def open(self, place: str = "#/") -> None:
        """Go to a part of the page."""
        self.driver.get(f"{self.url}/{place}")

    def __call__(self, css: str):
        return self.driver.find_element(By.CSS_SELECTOR, css)

    def all(self, css: str):
        """Return all elements."""
        return self.driver.find_elements(By.CSS_SELECTOR, css)

    def shown(self, css: str, timeout: float = 30):
        """Wait until an element is to be seen."""
        WebDriverWait(self.driver, timeout, 0.05).until(
            lambda _: any(each.is_displayed() for each in self.all(css)), css
        )
        return next(each for each in self.all(css) if each.is_displayed())

    def text(self, css: str, wanted: str, timeout: float = 30) -> str:
        """Wait until an element's text holds this."""

        def holds(_):
            return any(wanted in each.text for each in self.all(css))

        try:
            WebDriverWait(self.driver, timeout, 0.05, [WebDriverException]).until(holds)
        except WebDriverException:
            found = [each.text for each in self.all(css)]
            raise AssertionError(f"{css}: {wanted!r} is not in {found}") from None
        return self(css).text

    def press(self, css: str) -> None:
        """Click, in view."""
        self.driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", self(css))
        self.shown(css).click()

    def fill(self, css: str, text: str) -> None:
        """Write into a field."""
        element = self(css)
        element.clear()
        element.send_keys(text)

    def run(self, script: str, *arguments):
        """Run a script in the page."""
        return self.driver.execute_script(script, *arguments)

    def complaints(self) -> list[str]:
        """Return what the page's console has of errors."""
        return [line["message"] for line in self.driver.get_log("browser") if line["level"] == "SEVERE"]

    def picture(self, path: Path) -> None:
        """Save the whole page as it looks."""
        height = self.run("return document.documentElement.scrollHeight")
        width = self.run("return innerWidth")
        self.size(width, max(height, 400))
        self.driver.save_screenshot(str(path))


@contextmanager
def browser(url: str) -> Iterator[Browser]:
    """A browser that knows this site; ``Unavailable`` if none is installed."""
    chromium, chromedriver = program("chromium", "google-chrome"), program("chromedriver")
    with tempfile.TemporaryDirectory(prefix="aggregator-browser-", ignore_cleanup_errors=True) as profile:
        options = webdriver.ChromeOptions()
        options.binary_location = chromium
        for flag in (*FLAGS, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        driver = webdriver.Chrome(options, webdriver.ChromeService(chromedriver))
        try:
            yield Browser(driver, url)
        finally:
            driver.quit()
