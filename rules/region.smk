# The Python of the rules that make a region: what they read, and the settings that they depend on. After common.smk.


def region_json(*keys):
    """A params function: the parts of a region's config that a rule reads, the class scheme's content included."""

    def read(wildcards):
        region = load_region(wildcards.region)
        content = region.model_dump(mode="json", include=set(keys))
        if "classes" in keys:
            content["classes"] = load_classes(region.classes).model_dump(mode="json")
        return canonical_json(content)

    return read


def plan_recipes(wildcards):
    """The recipes that the plan of a region counts."""
    return fitting_recipes(wildcards.region)


def recipe_json(wildcards):
    """A recipe's content and the class scheme it paints with."""
    scheme = load_classes(load_region(wildcards.region).classes)
    recipe = load_recipe(wildcards.recipe)
    return canonical_json(
        [recipe.model_dump(mode="json"), scheme.model_dump(mode="json")]
    )


def imagery_json(wildcards):
    """One imagery source's content."""
    source = load_region(wildcards.region).imagery[wildcards.provider]
    return canonical_json(source.model_dump(mode="json"))


def split_json(wildcards):
    """One split's content."""
    split = load_region(wildcards.region).splits[wildcards.split]
    return canonical_json(split.model_dump(mode="json"))


def demo_seed(wildcards):
    """The seed of the demo region."""
    return load_region("demo").demo.seed


def sources_of(wildcards):
    """Demo regions generate their sources first."""
    return (
        ["data/demo/source/summary.json"] if load_region(wildcards.region).demo else []
    )


def osm_paths(wildcards):
    """The region's OSM extracts: local files, or downloaded ones."""
    return [
        str(extract.path or f"data/{wildcards.region}/osm/{extract.file_name}")
        for extract in load_region(wildcards.region).osm_extracts
    ]


def extract_json(wildcards):
    """The content of the extract to download; a job's parameter, so that another url or checksum fetches it anew."""
    extracts = load_region(wildcards.region).osm_extracts
    name = f"{wildcards.file}.osm.pbf"
    wanted = [
        extract.model_dump(mode="json")
        for extract in extracts
        if extract.url is not None and extract.file_name == name
    ]
    return canonical_json(wanted)


def osm_files(wildcards):
    """What the OSM layers wait for: the demo's sources, or the extracts."""
    return sources_of(wildcards) or osm_paths(wildcards)


def imagery_input(wildcards):
    """What a download waits for: the demo's sources, or the local raster."""
    region = load_region(wildcards.region)
    source = region.imagery[wildcards.provider]
    return sources_of(wildcards) or (
        list(map(str, source.paths)) if source.kind == "raster" else []
    )


def landcover_input(wildcards):
    """What a land cover waits for: the demo's sources, or the local file."""
    source = load_region(wildcards.region).landcover[wildcards.source]
    path = getattr(source, "path", None)
    return sources_of(wildcards) or ([str(path)] if path else [])


def landcover_json(wildcards):
    """One land cover's content and the class scheme that it is mapped to."""
    region = load_region(wildcards.region)
    source = region.landcover[wildcards.source]
    scheme = load_classes(region.classes)
    return canonical_json(
        [source.model_dump(mode="json"), scheme.model_dump(mode="json")]
    )


def grid_input(wildcards):
    """A grid taken from a raster needs its header."""
    region = load_region(wildcards.region)
    return (
        [str(region.imagery[region.grid.imagery].paths[0])]
        if region.grid.imagery
        else []
    )


def shards(pattern):
    """A function of wildcards: `pattern` for every shard of the region."""

    def names(wildcards):
        region = load_region(wildcards.region)
        return expand(pattern, shard=region.shard_names(), allow_missing=True)

    return names


def landcover_inputs(wildcards):
    """The land-cover rasters that a recipe paints."""
    layers = load_recipe(wildcards.recipe).layers.values()
    names = [layer.source for layer in layers if isinstance(layer, LandcoverLayer)]
    return [f"data/{wildcards.region}/landcover/{name}.tif" for name in names]


def osm_inputs(wildcards):
    """The OSM layers, if a recipe paints any."""
    layers = load_recipe(wildcards.recipe).layers.values()
    needed = any(not isinstance(layer, LandcoverLayer) for layer in layers)
    return [f"data/{wildcards.region}/osm/layers.gpkg"] if needed else []


def chip_inputs(wildcards):
    """The rasters that a chip store is cut from: imagery, labels of a recipe, a land cover, or the truth."""
    region = load_region(wildcards.region)
    place = f"data/{wildcards.region}"
    if wildcards.store == "truth":
        return sources_of(wildcards) or [str(region.truth)]
    if wildcards.store.startswith("landcover-"):
        return [f"{place}/landcover/{wildcards.store.removeprefix('landcover-')}.tif"]
    kind = "imagery" if wildcards.store in region.imagery else "labels"
    end = ".json" if kind == "imagery" else "_stats.json"
    return [
        f"{place}/{kind}/{wildcards.store}/{shard}{end}"
        for shard in region.shard_names()
    ]


def store(region, name):
    """The manifest of a chip store."""
    return f"data/{region}/chips/{name}/store.json"


def label_stats(recipe):
    """A function of wildcards: the statistics of all shards of the recipe that the wildcard `recipe` names."""

    def files(wildcards):
        place = f"data/{wildcards.region}/labels/{getattr(wildcards, recipe)}"
        shards = load_region(wildcards.region).shard_names()
        return [f"{place}/{shard}_stats.json" for shard in shards]

    return files


def other_labels(wildcards):
    """The second side of a comparison: the region's truth, or the labels of a recipe."""
    if wildcards.other == "truth":
        truth = load_region(wildcards.region).truth
        return sources_of(wildcards) or [str(truth)]
    return label_stats("other")(wildcards)


def pictured_provider(wildcards):
    """Whose imagery lies under a comparison: the first source that needs no network or lies on disk; "" for none."""
    region = load_region(wildcards.region)
    for name, source in region.imagery.items():
        local = region.demo or source.kind == "raster" or getattr(source, "serve", None)
        if local or all(map(os.path.exists, imagery_manifests(wildcards, name))):
            return name
    return ""


def imagery_manifests(wildcards, provider):
    """The manifests of all shards of a source; none for "" (no source)."""
    place = f"data/{wildcards.region}/imagery/{provider}"
    shards = load_region(wildcards.region).shard_names() if provider else []
    return [f"{place}/{shard}.json" for shard in shards]


def pictured_imagery(wildcards):
    """The manifests of the imagery under a comparison."""
    return imagery_manifests(wildcards, pictured_provider(wildcards))


def split_inputs(wildcards):
    """What a split is balanced by: label chips, and the imagery that shows where there is ground at all."""
    region = load_region(wildcards.region)
    names = [region.splits[wildcards.split].balance, *region.imagery]
    return [store(wildcards.region, name) for name in names]
