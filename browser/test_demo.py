"""The page in which a network runs, opened from its file: the ready one, two trained here, what readers put in it."""

import io
import json
import os
import shutil
from base64 import b64decode
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from export_network import export, fold, open_run, quantise
from PIL import Image
from playwright.sync_api import Browser, FilePayload, Page, expect
from test_site import WIDTHS, findings
from torch.nn import functional as F

from alexnet_cifar10.batches import DeviceLoader, training_batches
from alexnet_cifar10.data import load_images, stratified_split
from alexnet_cifar10.evaluate import evaluate
from alexnet_cifar10.model import AlexNet
from alexnet_cifar10.notebook.run import ready_run
from alexnet_cifar10.recipes import choose_recipe
from alexnet_cifar10.runs import Run, TrainingRun, load_model
from alexnet_cifar10.train import train

ROOT = Path(__file__).resolve().parent.parent
CPU = torch.device("cpu")
expect.set_options(timeout=30_000)  # busy machines are slow
SEEN = "async index => Array.from(await see(document.querySelectorAll('#pictures img')[index]))"
LOGITS = "async index => Array.from((await ask(await see(document.querySelectorAll('#pictures img')[index]))).logits)"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    """A run on the digits, and one with the same weights that says that it saw CIFAR-10, which is not everywhere."""
    root = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RUNS_ROOT", str(root))
        images, recipe = load_images("digits"), choose_recipe("classic", epochs=1)
        trained, held = stratified_split(images.train.targets)
        train(
            AlexNet(recipe.dropout),
            training_batches(images.train, trained, recipe, device=CPU),
            DeviceLoader(images.train, held, batch_size=250, device=CPU),
            recipe,
            TrainingRun(images.provenance, "my-digits"),
        )
    shutil.copytree(root / "my-digits", root / "my-photos")
    record = json.loads((root / "my-photos" / "run.json").read_text("utf-8"))
    record["data"]["dataset"] = "cifar10"
    (root / "my-photos" / "run.json").write_text(json.dumps(record), "utf-8")
    return {"digits": Run(root / "my-digits"), "cifar10": Run(root / "my-photos")}


@pytest.fixture(scope="module")
def addresses(site_folder: Path, runs: dict[str, Run], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Where the page lies with the ready network and with that of each run."""
    found = {"ready": f"{site_folder.as_uri()}/docs/demo.html"}
    for data, run in runs.items():
        folder = tmp_path_factory.mktemp(data)
        for part in ("docs", "_static"):
            shutil.copytree(site_folder / part, folder / part)
        (folder / "_static" / "weights.js").write_text(export(run), "utf-8")
        found[data] = f"{folder.as_uri()}/docs/demo.html"
    return found


Open = Callable[..., Page]


@pytest.fixture
def open_page(browser: Browser, addresses: dict[str, str]) -> Iterator[Open]:
    """A function that opens the page. The test fails at its end if anything failed in it, or was asked of a host."""
    troubles: list[str] = []
    context = browser.new_context(locale="en-US")

    def open_page(data: str = "cifar10", query: str = "", width: int = WIDTHS[0]) -> Page:
        page = context.new_page()
        page.set_viewport_size({"width": width, "height": 800})
        page.on("console", lambda message: message.type == "error" and troubles.append(f"console: {message.text}"))
        page.on("pageerror", lambda error: troubles.append(f"error: {error}"))
        page.on("requestfailed", lambda asked: troubles.append(f"failed: {asked.url}"))
        page.on("request", lambda asked: asked.url.startswith("http") and troubles.append(f"a host: {asked.url}"))
        page.goto(addresses[data] + query)
        expect(page.locator("#verdict")).not_to_be_empty()
        return page

    yield open_page
    context.close()
    assert not troubles


def as_in_the_page(run: Run) -> AlexNet:
    """The run's network with the weights that int8 leaves of it."""
    model = load_model(run.best_checkpoint, CPU)
    for layer in fold(model):
        quantise(layer)
    return model


def pixels(page: Page, what: str = "changed()") -> torch.Tensor:
    """What the network sees now: float [3, 32, 32]."""
    return torch.tensor(page.evaluate(f"Array.from({what})")).reshape(3, 32, 32)


def picture_file(image: Image.Image, kind: str = "PNG", **options: object) -> FilePayload:
    content = io.BytesIO()
    image.save(content, kind, **options)
    return FilePayload(name=f"picture.{kind.lower()}", mimeType=f"image/{kind.lower()}", buffer=content.getvalue())


def put(page: Page, file: FilePayload) -> None:
    page.set_input_files("#file", file)
    expect(page.locator("#source")).to_contain_text("Your picture")


@pytest.mark.parametrize("data", ["cifar10", "digits"])
def test_logits_are_those_of_pytorch(open_page: Open, runs: dict[str, Run], data: str) -> None:
    page, model = open_page(data), as_in_the_page(runs[data])
    for index in range(20):
        image = torch.tensor(page.evaluate(SEEN, index)).reshape(1, 3, 32, 32)
        content = b64decode(page.evaluate(f"pictures[{index}].src").removeprefix("data:image/png;base64,"))
        expected = np.asarray(Image.open(io.BytesIO(content))).transpose(2, 0, 1) / np.float32(255)
        np.testing.assert_array_equal(image[0].numpy(), expected)
        with torch.no_grad():
            torch.testing.assert_close(torch.tensor(page.evaluate(LOGITS, index)), model(image)[0], rtol=0, atol=1e-3)


def test_int8_costs_no_accuracy(runs: dict[str, Run]) -> None:
    """On all validation images of the run that RUN names, or else on all digits for training: 1000 images or more."""
    run = open_run(os.environ["RUN"]) if "RUN" in os.environ else runs["digits"]
    images = load_images(run.read_record()["data"]["dataset"])
    valid = stratified_split(images.train.targets)[1]
    loader = DeviceLoader(images.train, valid if len(valid) > 1000 else None, batch_size=250, device=CPU)
    models = load_model(run.best_checkpoint, CPU), as_in_the_page(run)
    exact, rounded = (evaluate(model, loader, CPU) for model in models)
    changed = (exact.predictions != rounded.predictions).sum()
    print(f"{run.name}: {exact.accuracy:.4f} in float32, {rounded.accuracy:.4f} in int8; {changed} answers change")
    assert abs(exact.accuracy - rounded.accuracy) <= 0.002 + 1e-9


def test_it_shows_what_the_network_answers(open_page: Open, runs: dict[str, Run]) -> None:
    page, model = open_page(), as_in_the_page(runs["cifar10"])
    page.locator("#pictures label").nth(14).click()
    with torch.no_grad():
        probabilities = model(torch.tensor(page.evaluate(SEEN, 14)).reshape(1, 3, 32, 32)).softmax(dim=1)[0]
    names = page.evaluate("classes")
    shown = [f"{name}{' ✓' if name == 'deer' else ''}{p:.3f}" for name, p in zip(names, probabilities, strict=True)]
    expect(page.locator("#bars li")).to_have_count(10)
    assert names[4] == "deer"
    expect(page.locator("#bars li.label")).to_have_text(f"deer{probabilities[4]:.3f}")
    expect(page.locator("#bars li")).to_have_text([text.replace(" ✓", "") for text in shown])
    best = names[int(probabilities.argmax())]
    expect(page.locator("#verdict")).to_have_text(
        f"The network says {best}, with a probability of {probabilities.max():.2f}. "
        + ("That is right." if best == "deer" else "The label says deer.")
    )
    expect(page.locator("#source")).to_contain_text(f"Number {page.evaluate('pictures[14].index')} of the training")
    expect(page.locator("#blocks figcaption").last).to_have_text("Block 5: 256 maps of 3×3")


def test_a_run_on_the_digits_shows_digits(open_page: Open, runs: dict[str, Run]) -> None:
    page = open_page("digits")
    expect(page.locator("#bars li span:first-child")).to_have_text(list("0123456789"))
    accuracy = runs["digits"].read_record()["result"]["best_valid_accuracy"]
    expect(page.locator("#network p").first).to_contain_text(
        f"run my-digits: trained on the handwritten digits, validation accuracy {accuracy:.4f} in training."
    )
    image = page.locator("#pictures img").nth(3 * 7)
    assert image.get_attribute("alt") == "7"
    seen = torch.tensor(page.evaluate(SEEN, 3 * 7)).reshape(3, 32, 32)
    assert seen[0].equal(seen[1]) and seen[0].equal(seen[2])


def test_without_a_run_it_is_the_ready_network(open_page: Open) -> None:
    page, ready = open_page("ready"), ready_run()
    accuracy = ready.read_record()["result"]["best_valid_accuracy"]
    expect(page.locator("#network p").first).to_contain_text(f"run {ready.name}: trained on CIFAR-10")
    expect(page.locator("#network p").first).to_contain_text(f"{accuracy:.4f}")
    expect(page.locator(".highlight-javascript")).to_contain_text("function convolve")


def test_sliders_change_the_picture_as_the_notebooks_do(open_page: Open) -> None:
    page = open_page()
    image = pixels(page, "picture")

    def slide(**values: object) -> torch.Tensor:
        page.click("#sliders [type=reset]")
        for name, value in values.items():
            if isinstance(value, bool):
                page.set_checked(f"#{name}", value)
            else:
                page.fill(f"#{name}", str(value))
        return pixels(page)

    assert slide().equal(image)
    assert slide(right=4).equal(F.pad(image[..., :28], (4, 0, 0, 0), "reflect"))
    assert slide(right=4, black=True).equal(F.pad(image[..., :28], (4, 0, 0, 0)))
    assert slide(down=-3).equal(F.pad(image[:, 3:], (0, 0, 0, 3), "reflect"))
    torch.testing.assert_close(slide(light=1.5), (1.5 * image).clamp(max=1))
    soft = slide(blur=1.5)
    at = torch.arange(-9.0, 10)
    weights = torch.exp(-((at / 1.5) ** 2) / 2)
    kernel = (weights[:, None] * weights / weights.sum() ** 2).expand(3, 1, 19, 19)
    torch.testing.assert_close(soft, F.conv2d(F.pad(image[None], (9, 9, 9, 9), "reflect"), kernel, groups=3)[0])
    covered = image.clone()
    covered[:, 12:20, 12:20] = 0.5
    assert slide(cover=8).equal(covered)


def test_the_grey_square_is_dragged(open_page: Open) -> None:
    page = open_page()
    image = pixels(page, "picture")
    box = page.locator("#seen").bounding_box()
    page.mouse.move(box["x"] + box["width"] / 4, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 25.5 / 32, box["y"] + box["height"] * 8.5 / 32, steps=5)
    page.mouse.up()
    page.mouse.move(box["x"], box["y"])
    image[:, 4:12, 21:29] = 0.5
    assert pixels(page).equal(image)


def test_window_times_kernel_is_the_number(open_page: Open, runs: dict[str, Run]) -> None:
    page, layer = open_page(), as_in_the_page(runs["cifar10"]).conv_block1[0]
    page.fill("#kernel", "37")
    page.locator("#map").scroll_into_view_if_needed()
    box = page.locator("#map").bounding_box()
    for x, y in ((9, 20), (0, 31)):  # in a corner, zeros lie around the picture
        page.mouse.move(box["x"] + box["width"] * (x + 0.5) / 32, box["y"] + box["height"] * (y + 0.5) / 32)
        page.wait_for_function(f"place.x === {x} && place.y === {y}")  # the browser bundles moves of the pointer
        window = F.pad(pixels(page, "picture"), (1, 1, 1, 1))[:, y : y + 3, x : x + 3]
        products = window * layer.weight[37].detach()
        cells = [float(text.replace("−", "-")) for text in page.locator("#numbers b").all_text_contents()]
        shown = torch.tensor(cells).reshape(3, 2, 3, 3)
        torch.testing.assert_close(shown[:, 0], window, rtol=0, atol=0.0051)
        torch.testing.assert_close(shown[:, 1], layer.weight[37].detach(), rtol=0, atol=0.0051)
        total = products.sum() + layer.bias[37].detach()
        parts = [*products.sum(dim=(1, 2)), layer.bias[37].detach(), total, total.relu()]
        red, green, blue, bias, number, relu = (f"{round(float(part), 2) + 0:.2f}".replace("-", "−") for part in parts)
        text = f"{red} + {green} + {blue} + bias {bias} = {number}. ReLU makes {relu} of it."
        expect(page.locator("#sum")).to_have_text(text)


def test_a_map_of_block_1_chooses_its_kernel(open_page: Open) -> None:
    page = open_page()
    canvas = page.locator("#blocks canvas").first
    box = canvas.bounding_box()
    canvas.click(position={"x": box["width"] * 2.5 / 16, "y": box["height"] * 3.5 / 6})
    expect(page.locator("#kernel")).to_have_value("50")


def test_all_of_it_with_the_keyboard(open_page: Open) -> None:
    page = open_page()
    focused = "(({ id, name, value, type }) => id || name || value || type)(document.activeElement)"
    page.locator(".languages button").first.focus()
    stops = []
    while not stops or stops[-1] != "map":
        stops.append(page.evaluate(focused))
        if stops[-1] == "picture":
            page.keyboard.press("ArrowRight")
            expect(page.locator("#source")).to_contain_text(f"Number {page.evaluate('pictures[1].index')} ")
        if stops[-1] == "seen":
            page.keyboard.press("ArrowUp")
            assert (pixels(page)[:, 11:19, 12:20] == 0.5).all()
        if stops[-1] == "light":
            page.keyboard.press("Home")
            assert pixels(page)[:, :10].max() <= 0.2
        if stops[-1] == "map":
            page.keyboard.press("ArrowLeft")
            assert page.evaluate("place") == {"x": 15, "y": 16}
        page.keyboard.press("Tab")
    expected = ["en", "ko", "picture", "file", "camera", "seen", "right", "down", "black", "light", "blur", "cover"]
    assert stops == [*expected, "reset", "kernel", "under", "map"]


@pytest.mark.parametrize("language", ["en", "ko"])
@pytest.mark.parametrize("width", WIDTHS)
def test_it_fits_its_width_and_axe_finds_nothing_serious(open_page: Open, width: int, language: str) -> None:
    page = open_page(query=f"?lang={language}", width=width)
    page.fill("#cover", "8")
    assert page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") <= 0
    for picture in page.locator("#demo img").all():
        assert picture.get_attribute("alt")
    assert findings(page, preload=False) == []  # axe would read the style sheets, which file:// refuses
    page.emulate_media(color_scheme="dark")
    assert findings(page, preload=False, runOnly=["color-contrast"]) == []  # the rest is as it was


def test_both_languages_say_all_of_it(open_page: Open) -> None:
    page = open_page()
    english, korean = (page.evaluate(f"TEXTS.{language}") for language in ("en", "ko"))
    assert list(english) == list(korean)
    assert set(korean.pop("classes")) == set(page.evaluate("classes")) and english.pop("classes") == {}
    for key, text in english.items():
        assert sorted(page.evaluate("text => text.match(/{\\w+}/g) ?? []", text)) == sorted(
            page.evaluate("text => text.match(/{\\w+}/g) ?? []", korean[key])
        ), key
    page.click("button[lang=ko]")
    expect(page.locator("h1")).to_contain_text("신경망")
    expect(page.locator("#verdict")).to_contain_text("신경망의 답")
    expect(page.locator("#bars li").first).to_contain_text("비행기")
    assert page.locator("#demo").get_attribute("lang") == "ko"
    assert "undefined" not in page.locator("#demo").inner_text()
    page.click("button[lang=en]")
    expect(page.locator("#verdict")).to_contain_text("The network says")
    assert "undefined" not in page.locator("#demo").inner_text()


def test_a_broken_picture_is_refused_and_the_page_goes_on(open_page: Open) -> None:
    page = open_page()
    verdict = page.locator("#verdict").inner_text()
    whole = picture_file(Image.effect_noise((64, 64), 50))
    for content in (b"", b"not a picture", whole["buffer"][: len(whole["buffer"]) // 4]):
        page.set_input_files("#file", FilePayload(name="broken.png", mimeType="image/png", buffer=content))
        expect(page.locator("#problem")).to_contain_text("cannot be opened as a picture")
        expect(page.locator("#verdict")).to_have_text(verdict)
    put(page, picture_file(Image.new("RGB", (50, 40), "navy")))
    expect(page.locator("#problem")).to_be_hidden()
    expect(page.locator("#verdict")).to_contain_text("It knows ten classes")


def test_a_picture_of_40_megapixels_is_cut_to_its_middle(open_page: Open) -> None:
    page = open_page()
    image = Image.new("RGB", (8000, 5000), "red")
    image.paste("blue", (1500, 0, 6500, 2500))
    image.paste("lime", (1500, 2500, 6500, 5000))
    put(page, picture_file(image, "JPEG"))
    for rows, colour in ((slice(0, 15), (0, 0, 1)), (slice(17, 32), (0, 1, 0))):
        difference = pixels(page)[:, rows, 1:31] - torch.tensor(colour)[:, None, None]
        assert difference.abs().max() < 0.02  # at the edge, what is beside it may come in a little


def test_a_pixel_is_the_mean_of_what_it_covers(open_page: Open) -> None:
    page = open_page()
    put(page, picture_file(Image.effect_noise((2048, 2048), 64)))
    assert pixels(page)[:, 1:31, 1:31].std() < 0.02  # single pixels of it would give 0.25


def test_where_a_picture_is_transparent_it_is_white(open_page: Open) -> None:
    page = open_page()
    image = Image.new("RGBA", (320, 320), (255, 0, 0, 0))
    image.paste((0, 0, 0, 255), (0, 0, 160, 320))
    put(page, picture_file(image))
    assert (pixels(page)[:, :, :15] < 0.01).all() and (pixels(page)[:, :, 17:] > 0.99).all()


def test_a_picture_with_16_bits(open_page: Open) -> None:
    page = open_page()
    put(page, picture_file(Image.fromarray(np.full((90, 60), 0x4000, np.uint16))))
    torch.testing.assert_close(pixels(page), torch.full((3, 32, 32), 0.25), rtol=0, atol=0.01)


@pytest.mark.parametrize("way", ["drop", "paste"])
def test_a_picture_is_dropped_or_pasted(open_page: Open, way: str) -> None:
    page = open_page()
    page.evaluate(
        """async way => {
            const canvas = new OffscreenCanvas(40, 40);
            canvas.getContext("2d").fillRect(0, 0, 40, 40);
            const transfer = new DataTransfer();
            transfer.items.add(new File([await canvas.convertToBlob()], "black.png", { type: "image/png" }));
            document.body.dispatchEvent(way === "drop"
                ? new DragEvent("drop", { dataTransfer: transfer, bubbles: true, cancelable: true })
                : new ClipboardEvent("paste", { clipboardData: transfer, bubbles: true }));
        }""",
        way,
    )
    expect(page.locator("#source")).to_contain_text("Your picture")
    assert (pixels(page) == 0).all()
    assert page.locator("#pictures input:checked").count() == 0


def test_the_camera_takes_a_picture_or_the_page_says_why_not(open_page: Open) -> None:
    page = open_page()
    page.click("#camera")
    expect(page.locator("#problem")).to_contain_text("No camera can be used")
    page.context.grant_permissions(["camera"])
    page.click("#camera")
    expect(page.locator("#camera")).to_have_text("Take the picture")
    expect(page.locator("#video")).to_be_visible()
    page.click("#camera")
    expect(page.locator("#source")).to_contain_text("Your picture")
    expect(page.locator("#video")).to_be_hidden()
    assert page.evaluate("$('video').srcObject.getTracks().every(track => track.readyState === 'ended')")


def test_no_camera_stays_on(open_page: Open) -> None:
    page = open_page()
    page.context.grant_permissions(["camera"])
    page.evaluate(
        """() => {
            window.streams = [];
            const open = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
            navigator.mediaDevices.getUserMedia = async (wanted) => {
                streams.push(await open(wanted));
                return streams.at(-1);
            };
        }"""
    )
    page.dblclick("#camera")
    expect(page.locator("#video")).to_be_visible()
    page.locator("#pictures input").nth(3).click()
    expect(page.locator("#video")).to_be_hidden()
    expect(page.locator("#camera")).to_have_text("Camera")
    assert page.evaluate("streams.map(stream => stream.getTracks()[0].readyState)") == ["ended"]


def test_an_answer_never_stands_beside_the_label_of_another_picture(open_page: Open) -> None:
    page = open_page()
    before = page.locator("#verdict").inner_text()
    page.evaluate(
        """() => {
            window.said = new Set();
            new MutationObserver(() => said.add($('verdict').textContent)).observe($('verdict'), { childList: true });
        }"""
    )
    page.locator("#pictures input").nth(3).click()
    page.wait_for_function("known === pictures[3] && !isAsking")
    assert set(page.evaluate("[...said]")) <= {before, page.locator("#verdict").inner_text()}


def test_the_picture_that_was_chosen_last_stays(open_page: Open) -> None:
    """Though the one before takes longer to load."""
    page = open_page()
    page.evaluate(
        """async () => {
            const [slow, , , , quick] = all('#pictures img');
            slow.decode = () => new Promise((resolve) => setTimeout(resolve, 300));
            const before = take(slow, pictures[0]);
            await take(quick, pictures[4]);
            await before;
        }"""
    )
    expect(page.locator("#source")).to_contain_text(f"Number {page.evaluate('pictures[4].index')} ")


@pytest.mark.parametrize(("canvas", "moved"), [("seen", "square"), ("under", "place"), ("map", "place")])
def test_after_a_click_the_arrow_keys_go_on_from_there(open_page: Open, canvas: str, moved: str) -> None:
    page = open_page()
    page.locator("#pictures input").first.focus()
    page.locator(f"#{canvas}").click()
    scrolled, at = page.evaluate("scrollY"), page.evaluate(moved)
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    assert page.evaluate(moved) == {"x": at["x"] + 1, "y": at["y"] + 1}
    assert page.evaluate("scrollY") == scrolled and page.locator("#pictures input").first.is_checked()


def test_the_page_stays_alive_while_the_network_computes(open_page: Open) -> None:
    page = open_page()
    ticks = page.evaluate(
        """async () => {
            let ticks = 0;
            const timer = setInterval(() => ticks++, 4);
            await ask(picture);
            clearInterval(timer);
            return ticks;
        }"""
    )
    assert ticks >= 5
