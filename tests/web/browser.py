"""A Chromium without a window, and what it asked for."""

import base64
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from selenium import webdriver
from selenium.common.exceptions import NoSuchElementException, StaleElementReferenceException
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

PROGRAMS = {name: shutil.which(name) for name in ("chromium", "chromedriver")}
MISSING = [name for name, path in PROGRAMS.items() if path is None]
ENOUGH_S = 90


class User:
    """Someone in front of a page: what they do, and what they see."""

    def __init__(self, driver: webdriver.Chrome) -> None:
        self.driver = driver

    def open(self, address: str) -> None:
        self.driver.get(address)
        self.see("#drop input[type=file]")

    def send(self, file: Path) -> None:
        self.driver.find_element(By.CSS_SELECTOR, "#drop input[type=file]").send_keys(str(file))

    def choose(self, name: str) -> None:
        for item in self.driver.find_elements(By.CSS_SELECTOR, "#samples .thumbnail-item"):
            if name in item.text:
                item.click()
                return
        raise AssertionError(f"there is no sample {name!r}")

    def slide(self, bins: int) -> None:
        """Set the slider by the keyboard: to its left end, and from there to the right."""
        slider = self.see("#bins input[type=range]")
        slider.send_keys(Keys.HOME)
        for _ in range(bins - 1):
            slider.send_keys(Keys.ARROW_RIGHT)

    def see(self, css: str, text: str = "") -> WebElement:
        """Wait for an element with this text in it."""

        def shown(driver: webdriver.Chrome) -> list[WebElement]:
            return [one for one in driver.find_elements(By.CSS_SELECTOR, css) if text in (one.text or "")]

        return self.wait(shown, f"{css}: {text!r}")

    def wait(self, look: Callable[[webdriver.Chrome], list[Any]], told: str) -> Any:
        """Return the first of what is found once something is; what is not there, or replaced, is looked at again."""
        passing = (NoSuchElementException, StaleElementReferenceException)
        return WebDriverWait(self.driver, ENOUGH_S, 0.1, ignored_exceptions=passing).until(look, told)[0]

    def text(self, css: str) -> str:
        found = self.wait(lambda driver: [driver.find_element(By.CSS_SELECTOR, css).text], css)
        return " ".join(found.split())

    def width(self) -> int:
        return self.driver.execute_script("return document.documentElement.scrollWidth")

    def top(self, css: str) -> float:
        """How far below the page's top something begins, in px."""
        found = "return arguments[0].getBoundingClientRect().top + window.scrollY"
        return self.wait(lambda driver: [driver.execute_script(found, driver.find_element(By.CSS_SELECTOR, css))], css)

    def screenshot(self, path: Path) -> None:
        """Write a picture of the whole page."""
        height, width = self.driver.execute_script("return [document.documentElement.scrollHeight, window.innerWidth]")
        clip = {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}
        shot = self.driver.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True, "clip": clip})
        path.write_bytes(base64.b64decode(shot["data"]))

    def requests(self) -> list[str]:
        """The addresses that the page has asked for since the last call."""
        messages = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        sent = {"Network.requestWillBeSent", "Network.webSocketCreated"}
        return [address(one["params"]) for one in messages if one["method"] in sent]


def address(params: dict[str, Any]) -> str:
    return params.get("request", params)["url"]


@contextmanager
def user(width: int, height: int, phone: bool = False) -> Iterator[User]:
    """Open a browser of its own, with its own profile."""
    assert not MISSING, (
        f"no {' and no '.join(MISSING)} on this machine; on Debian: apt install chromium chromium-driver"
    )
    options = webdriver.ChromeOptions()
    options.binary_location = PROGRAMS["chromium"]
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        flags = ["--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--no-first-run"]
        for flag in (*flags, f"--window-size={width},{height}", f"--user-data-dir={profile}"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
        if phone:
            metrics = {"width": width, "height": height, "pixelRatio": 2.0}
            options.add_experimental_option("mobileEmulation", {"deviceMetrics": metrics})
        service = webdriver.ChromeService(PROGRAMS["chromedriver"], env=os.environ | {"TMPDIR": profile})
        driver = webdriver.Chrome(options=options, service=service)
        try:
            yield User(driver)
        finally:
            driver.quit()
