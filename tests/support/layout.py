"""Where things stand on a page, once the page has come to rest."""

from playwright.sync_api import FloatRect, Locator, Page

STILL = 300  # ms in which nothing moves
LOOKS = 100


def boxes(page: Page, *locators: Locator) -> list[FloatRect | None]:
    """The place of each, as `bounding_box` gives it, when it is the same twice: pages move while their parts load."""
    found: list[FloatRect | None] = []
    for _ in range(LOOKS):
        before, found = found, [locator.bounding_box() for locator in locators]
        if found == before:
            return found
        page.wait_for_timeout(STILL)
    raise AssertionError(f"the page did not come to rest: {before} became {found}")
