"""Claims about the bytes of the cache: footnote 2, the width in equations 4 and 5, the memory of table 8."""

from __future__ import annotations

from statistics import linear_regression

from lvlm_atlas.roofline.deployment import Deployment
from lvlm_atlas.roofline.model import Llm
from lvlm_atlas.roofline.workload import Image, Video
from lvlm_atlas.survey import accounting
from lvlm_atlas.survey.claim import Claim, Table
from lvlm_atlas.survey.ground import GB, Ground, with_image_params, with_video_params

COUNT, SIZE = ",.0f", ",.2f"
SIZES = ((640, 480), (1024, 1024), (1280, 720), (1400, 1120), (1260, 1260), (1920, 1080))
PIXELS = 28**2
"""Pixels of a token: a square of two by two patches of 14."""
CLASS_DEFAULT = 1_003_520
"""Pixels at which the processor class of Qwen2.5-VL cuts images if the checkpoint does not say otherwise."""
RATES = ((2, 30, "2 (default)"), (8, 30, "8"), (24, 24, "24"), (30, 30, "30"))
"""Frames a second read, those of the file, and how the page calls it."""
TABLE_8 = ((1.73, 58.94, "full"), (0.40, 42.08, "20 %"), (0.22, 38.65, "10 %"))
"""Cache in GB, latency in ms, and the budget, as printed."""


def token_byte(llm: Llm) -> int:
    """Bytes of one token in a 16-bit cache of keys and values."""
    return 2 * llm.layers * llm.kv_heads * llm.head_dim * 2


def images(ground: Ground) -> Claim:
    """Row 1."""
    model = ground.model("qwen2.5-vl-72b")
    llm, each = model.llm, token_byte(model.llm)
    estimates = {f"{width}×{height}": ground.visual(model, Image(width, height, 20)) for width, height in SIZES}
    capped = with_image_params(model, max_pixels=CLASS_DEFAULT)
    estimates["1920×1080, cut at the class default"] = ground.visual(capped, Image(1920, 1080, 20))
    rows = {
        name: (each.state.vision / 20, each.state.vision, each.memory.kv_byte / GB) for name, each in estimates.items()
    }
    least, common = rows["1400×1120"], rows["1280×720"]
    most = 20 * CLASS_DEFAULT // PIXELS
    quantised = ground.visual(model, Image(1400, 1120, 20), deployment=Deployment(kv_dtype="fp8")).memory.kv_byte
    return Claim(
        number=1, where="footnote 2", title="The cache of twenty images",
        printed="Qwen2.5-VL-72B with 20 images: more than 40K tokens, more than 13 GB of cache",
        verdict="holds if",
        ours=f"{least[1]:,.0f} tokens, {least[2]:.1f} GB at 1400×1120; {common[1]:,.0f} and {common[2]:.1f} GB at "
        "1280×720",
        rests_on="2,000 tokens an image or more, which is 1.57 megapixels; keys and values of 8 heads; 16 bits a "
        "number; GB of 10⁹ bytes; the limit on pixels that the checkpoint ships",
        arithmetic=(
            f"A token takes 2 × {llm.layers} layers × {llm.kv_heads} heads × {llm.head_dim} × 2 bytes = {each:,} "
            f"bytes, so 40,000 tokens take {40_000 * each / GB:.3f} GB ({40_000 * each / 2**30:.1f} GiB), and 13 GB "
            f"are passed at {13 * GB / each:,.0f} tokens. If all {llm.heads} heads kept keys and values of their own, "
            f"it would be {40_000 * each * llm.heads / llm.kv_heads / GB:.0f} GB; in FP8 it is {quantised / GB:.2f} "
            "GB.",
            "Twenty images reach 40,000 tokens only from 2,000 tokens each, and a token stands for 28×28 pixels: "
            f"that is {2000 * PIXELS / 1e6:.2f} megapixels. The sentence is one about large images, not about images "
            f"in general. Where the class default of the processor cuts an image to {CLASS_DEFAULT // PIXELS:,} "
            f"tokens, no size gets there: {most:,} tokens and {most * each / GB:.1f} GB is the most.",
        ),
        tables=(
            Table("Image", {"Tokens each": COUNT, "Tokens of 20": COUNT, "Cache, GB": ",.1f"}, rows),
        ),
    )  # fmt: skip


def video(ground: Ground) -> Claim:
    """Row 2."""
    model = ground.model("qwen2.5-vl-72b")
    each = token_byte(model.llm)
    # The limit of an image in place of that of a frame, and a budget for the whole clip that it never meets.
    native = with_video_params(
        model, max_pixels=model.tokens.image_params["max_pixels"], total_pixels=10_000 * 1280 * 720
    )
    rows = {}
    for fps, source, name in RATES:
        clip = Video(1280, 720, 5, fps, source)
        capped, whole = ground.visual(model, clip), ground.visual(native, clip)
        rows[name] = (
            capped.state.visual.frames, capped.state.vision, capped.memory.kv_byte / GB, whole.state.vision,
            whole.memory.kv_byte / GB,
        )  # fmt: skip
    default, every = rows["2 (default)"], rows["30"]
    frame = ground.visual(native, Video(1280, 720, 5, 2, 30)).state.vision / 5
    pairs = -(-50_000 // int(frame))
    return Claim(
        number=2, where="footnote 2", title="The cache of five seconds of video",
        printed="Five seconds of 720p video: more than 50K tokens, more than 16 GB of cache",
        verdict="holds if",
        ours=f"{every[1]:,.0f} tokens, {every[2]:.1f} GB with all 150 frames; {default[1]:,.0f} and {default[2]:.1f} "
        "GB at 2 frames/s",
        rests_on="every frame of a clip of 30 frames/s is read, each cut to 768 tokens as qwen-vl-utils does",
        arithmetic=(
            f"Two frames share their tokens. Cut to 768, a frame of 1280×720 becomes 1008×560, so a pair is 20 × 36 = "
            f"{default[1] / 5:,.0f} tokens; uncut it becomes 1288×728, a pair is 26 × 46 = {frame:,.0f}. A token takes "
            f"{each:,} bytes, as above.",
            f"At the default of 2 frames/s the clip has {default[0]:.0f} frames: {default[1]:,.0f} tokens. The claim "
            f"is {50_000 / default[1]:.0f} times that. Uncut frames pass 50,000 tokens at {2 * pairs} frames, which "
            f"is {2 * pairs / 5:.0f} a second. All 150 frames cut to 768 come closest to both figures.",
        ),
        tables=(
            Table("Frames/s", {"Frames": COUNT, "Tokens, cut to 768 a frame": COUNT, "Cache, GB": SIZE,
                               "Tokens, uncut": COUNT, "Cache uncut, GB": SIZE}, rows),
        ),
    )  # fmt: skip


def width(ground: Ground) -> Claim:
    """Row 9."""
    tokens, rows = 32_768, {}
    for id_ in ground.atlas.models:
        model = ground.model(id_)
        llm = model.llm
        printed = 2 * accounting.kv_width(llm)
        kept = llm.latent.kv_lora_rank + llm.latent.rope_dim if llm.latent else 2 * llm.kv_heads * llm.head_dim
        by_equation = accounting.kv_byte(llm, tokens, 2)
        by_engine = ground.text(model, tokens).memory.kv_byte
        if by_equation != by_engine:
            rows[model.name] = (printed, kept, by_equation / GB, by_engine / GB, by_equation / by_engine)
    gemma, llama = ground.model("gemma-3-12b").llm, ground.model("llama-3.2-11b-vision").llm
    count, off = len(ground.atlas.models), sorted(row[-1] for row in rows.values())
    return Claim(
        number=9, where="eq. 4 and 5", title="The width of keys and values",
        printed="The cache is `2 · L · (N_v + N_t) · D_L · r_kv · P` bytes, where `r_kv` is KV heads over heads",
        verdict="holds if",
        ours=f"Right for {count - len(rows)} of {count} models; {off[0]:.1f} to {off[-1]:.1f} times the cache of the "
        "others",
        rests_on="heads × width of a head is the hidden width; every layer keeps every token; keys and values are "
        "kept, not a latent",
        arithmetic=(
            "`D_L · r_kv` equals the true width, KV heads × width of a head, only where heads × width of a head is "
            "`D_L`. Qwen3-VL with experts has heads wider than that in all, so the formula gives half. DeepSeek-VL2 "
            "keeps one latent and one rotary key for all heads.",
            "Qwen3.5 keeps a cache in one layer of four and a state of constant size in the others.",
            f"And layers differ: {len(gemma.local_layers)} of {gemma.layers} layers of Gemma-3-12B keep "
            f"{gemma.window:,} tokens at most; Llama-3.2-Vision keeps text in "
            f"{llama.layers - len(llama.cross_layers)} layers and vision in {len(llama.cross_layers)}. The table has "
            f"{tokens:,} text tokens in 16 bits; models for which both agree are left out.",
        ),
        tables=(
            Table("Model", {"2 · D_L · r_kv": COUNT, "Numbers kept a token and layer": COUNT, "Eq. 5, GB": SIZE,
                            "Ours, GB": SIZE, "Eq. 5 over ours": SIZE}, rows),
        ),
    )  # fmt: skip


def pilot_memory(ground: Ground) -> Claim:
    """Row 11."""
    model = ground.model("qwen2.5-vl-7b")
    each = token_byte(model.llm)
    full = TABLE_8[0][0]
    rows = {budget: (size, size * GB / each, 100 * size / full) for size, _, budget in TABLE_8}
    slope, kept = linear_regression((0.2, 0.1), (TABLE_8[1][0], TABLE_8[2][0]))
    small, large = (
        ground.visual(model, Video(width, height, 60, 2, 30)).state.vision / 60
        for width, height in ((640, 360), (1280, 720))
    )
    held = full * GB / each
    return Claim(
        number=11, where="table 8", title="Memory of the compressed cache",
        printed="Qwen2.5-VL-7B: 1.73 GB of cache in full, 0.40 GB at 20 %, 0.22 GB at 10 %",
        verdict="holds if",
        ours=f"{held:,.0f} tokens in full; {rows['20 %'][2]:.1f} % and {rows['10 %'][2]:.1f} % of the bytes instead "
        "of 20 and 10",
        rests_on=f"a request of {held / 1e3:.1f}K cached tokens, of which about {round(kept * GB / each, -2):,.0f} "
        "are exempt from the budget",
        arithmetic=(
            f"A token takes {each:,} bytes, so 1.73 GB are {held:,.0f} tokens ({full * 2**30 / each:,.0f} if GiB were "
            f"meant): {held / small:.0f} s of 640×360 video or {held / large:.0f} s of 720p at 2 frames/s.",
            f"The line through both budgets is {kept:.2f} GB + budget × {slope:.2f} GB: {kept:.2f} GB, or "
            f"{kept * GB / each:,.0f} tokens, stay whatever the budget is. Text and a window of recent tokens may "
            f"well be that. The line ends at {kept + slope:.2f} GB in full where 1.73 is printed, which rounding to "
            "two digits covers only with some rounding by head.",
        ),
        tables=(
            Table("Budget", {"Printed, GB": SIZE, "Tokens": COUNT, "Share of the bytes, %": ".1f"}, rows),
        ),
    )  # fmt: skip
