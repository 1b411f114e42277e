"""modeling.blip2.heat: heat maps of several questions at once."""

import numpy as np

from modeling.asking.predictor import Predictor
from modeling.blip2.family import heat_maps
from tests.modeling.blip2.tiny_runs import EVERYTHING, trained


def test_maps_of_a_batch_are_those_of_each_question(bases, dataset, tmp_path):
    """Of questions about two images, three of them about one."""
    trainer = trained(bases["opt"], tmp_path, dataset, lora_targets=EVERYTHING, feature_cache_gb=1)
    trainer.save_model()
    by_image = dataset["validation"].sort("image")
    rows = [*by_image.select(range(3)), by_image[len(by_image) - 1]]
    maps = heat_maps(trainer, rows)
    assert len({row["image"] for row in rows}) == 2
    for row, heat in zip(rows, maps, strict=True):
        np.testing.assert_allclose(heat, heat_maps(trainer, [row])[0], rtol=1e-3, atol=1e-6)
    predictor = Predictor.from_pretrained(tmp_path, dtype="float32")
    alone = predictor.heat_map(rows[0]["image"], rows[0]["question"], rows[0]["answer"])
    np.testing.assert_allclose(maps[0], alone, rtol=0.02, atol=1e-4)  # features are kept as halves
