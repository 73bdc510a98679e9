"""The recipes by name: the reference systems' own, mended where they were wrong, and ours."""

from dataclasses import replace

from seg.errors import RequestError, describe_unknown
from seg.recipe import Augmentation, Crops, Optimizer, Preprocessing, Recipe, Tiling

INTERFEROGRAM_ADAM = Optimizer(name="adam", lr=1e-3, weight_decay=0.0, schedule="constant")
FROM_SEQUENCE = Preprocessing(shrink=3, background_every=10, background_factor=0.9, clahe_clip=5.0)
FCN32 = Recipe(
    name="interferogram-fcn32",
    crops=Crops(size_px=(3072, 512), flip_rows=True),
    model="fcn32",
    optimizer=INTERFEROGRAM_ADAM,
    batch=4,
    epochs=50,
    tiling=Tiling(crop_px=(1024, 1024), halo_px=224),
)
PETS = Recipe(
    name="pets-fcn-resnet101",
    dataset="pets-breeds",
    validation_share=0.05,
    preprocessing=Preprocessing(channels=3, size_px=(128, 128), normalisation="imagenet"),
    crops=Crops(size_px=(128, 128), flip_columns=False),
    model="fcn-resnet101",
    weights="imagenet",
    optimizer=replace(INTERFEROGRAM_ADAM, lr=1e-4),
    batch=20,
    epochs=64,
    patience=5,
    tiling=Tiling(crop_px=(128, 128), halo_px=0),
)

RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            name="interferogram-small",
            preprocessing=Preprocessing(shrink=3),
            crops=Crops(size_px=(256, 256), per_image=16, on_object_share=0.7, flip_rows=True),
            class_weights=(1.0, 4.0),
            optimizer=Optimizer(lr=3e-3),
            epochs=8,
            tiling=Tiling(crop_px=(576, 576), halo_px=64),
        ),
        FCN32,
        replace(FCN32, name="interferogram-fcn32-asymmetric", loss="asymmetric"),
        Recipe(
            name="interferogram-fcn32-small",
            preprocessing=Preprocessing(blur_px=3, shrink=4),
            crops=Crops(size_px=(768, 128), flip_rows=True),
            model="fcn32",
            optimizer=INTERFEROGRAM_ADAM,
            batch=4,
            epochs=50,
            tiling=Tiling(crop_px=(768, 768), halo_px=0),
        ),
        Recipe(
            name="interferogram-resnet18",
            preprocessing=Preprocessing(),
            crops=Crops(size_px=(3072, 512), flip_rows=True),
            model="fcn",
            optimizer=INTERFEROGRAM_ADAM,
            batch=4,
            epochs=50,
            tiling=Tiling(crop_px=(1024, 1024), halo_px=160),
        ),
        Recipe(
            name="interferogram-icnet",
            preprocessing=FROM_SEQUENCE,
            crops=Crops(size_px=(1024, 1024), flip_rows=True),
            model="icnet",
            backbone="resnet50",
            optimizer=replace(INTERFEROGRAM_ADAM, lr=1e-4),
            batch=3,
            epochs=50,
            tiling=Tiling(crop_px=(1024, 1024), halo_px=0),
        ),
        Recipe(
            name="interferogram-icnet-gru",
            preprocessing=FROM_SEQUENCE,
            crops=Crops(size_px=(1024, 1024), flip_rows=True),
            model="icnet-gru",
            frames=4,
            optimizer=replace(INTERFEROGRAM_ADAM, lr=1e-4),
            batch=3,
            epochs=50,
            tiling=Tiling(crop_px=(1024, 1024), halo_px=0),
        ),
        Recipe(
            name="camvid-icnet",
            dataset="camvid",
            label_map=((11, 255),),
            preprocessing=Preprocessing(channels=3, normalisation="fitted"),
            crops=Crops(size_px=(352, 480)),
            model="icnet",
            optimizer=Optimizer(lr=1e-3),
            epochs=60,
            tiling=Tiling(crop_px=(384, 480), halo_px=0),
        ),
        Recipe(
            name="camvid-unet",
            dataset="camvid-rgb",
            preprocessing=Preprocessing(channels=3, size_px=(128, 128), normalisation="full_range"),
            crops=Crops(size_px=(128, 128), flip_columns=False),
            model="unet-classic",
            loss="focal(alpha=0.8,gamma=2)",
            optimizer=Optimizer(name="sgd", lr=5e-4, momentum=0.99, weight_decay=0.0, schedule="constant"),
            batch=4,
            epochs=40,
            tiling=Tiling(crop_px=(128, 128), halo_px=0),
        ),
        Recipe(
            name="camvid-fpn-mobilenet",
            dataset="camvid",
            label_map=((11, 255),),
            preprocessing=Preprocessing(channels=3, normalisation="imagenet"),
            crops=Crops(size_px=(352, 480)),
            augmentation=Augmentation(scale=(0.75, 2.0), brightness=0.2, contrast=0.2),
            model="fpn",
            backbone="mobilenet_v2",
            loss="cross_entropy+dice",
            optimizer=Optimizer(lr=1e-3),
            epochs=60,
            tiling=Tiling(crop_px=(384, 480), halo_px=0),
        ),
        PETS,
        replace(PETS, name="pets-fcn-resnet101-37", dataset="pets-breeds-only"),
        Recipe(
            name="drinks-pyramid",
            dataset="drinks",
            preprocessing=Preprocessing(channels=3, normalisation="full_range"),
            crops=Crops(size_px=(480, 640), flip_columns=False),
            model="pyramid-fcn",
            optimizer=Optimizer(
                name="adam",
                lr=1e-3,
                weight_decay=0.0,
                schedule="step",
                steps=((41, 0.5), (61, 0.1), (81, 0.05)),
            ),
            batch=1,
            epochs=300,
            tiling=Tiling(crop_px=(480, 640), halo_px=0),
        ),
        Recipe(
            name="drinks-fpn-mobilenet",
            dataset="drinks",
            preprocessing=Preprocessing(channels=3, shrink=2, normalisation="imagenet"),
            crops=Crops(size_px=(224, 320)),
            augmentation=Augmentation(scale=(0.75, 1.5), brightness=0.2, contrast=0.2),
            model="fpn",
            backbone="mobilenet_v2",
            loss="cross_entropy+dice",
            optimizer=Optimizer(lr=1e-3),
            batch=8,
            epochs=60,
            tiling=Tiling(crop_px=(256, 320), halo_px=0),
        ),
    )
}


def find_recipe(name: str) -> Recipe:
    """The recipe of that name. RequestError: unknown, naming near matches."""
    if name not in RECIPES:
        raise RequestError(describe_unknown("recipe", name, RECIPES))
    return RECIPES[name]
