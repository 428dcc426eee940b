"""The words of the generated shop: motifs, materials, moods, sentences, departments, brands."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Motif:
    """What an item shows: things, and scenes that they belong to."""

    nouns: tuple[str, ...]
    scenes: tuple[str, ...]


SUBJECTS = (
    Motif(
        nouns=("lighthouse", "anchor", "sailing boat", "seashell", "whale", "harbour gull"),
        scenes=("waves rolling into the bay", "a harbour at high tide", "salt wind on the pier"),
    ),
    Motif(
        nouns=("oak tree", "fox", "mushroom ring", "fern", "stag", "woodpecker"),
        scenes=("a clearing deep in the forest", "moss under tall pines", "leaves after the rain"),
    ),
    Motif(
        nouns=("mountain peak", "ibex", "alpine hut", "climbing rope", "glacier", "summit cross"),
        scenes=("the last pitch below the summit", "snow on the ridge", "a hike above the clouds"),
    ),
    Motif(
        nouns=("rocket", "planet", "astronaut", "comet", "moon lander", "space station"),
        scenes=("a launch into orbit", "craters on the moon", "the rings of Saturn"),
    ),
    Motif(
        nouns=("croissant", "bread loaf", "cupcake", "pretzel", "rolling pin", "cinnamon bun"),
        scenes=("the oven at four in the morning", "dough rising under a cloth", "warm crusts"),
    ),
    Motif(
        nouns=("teapot", "tea leaf", "tea whisk", "sugar bowl", "tea caddy", "samovar"),
        scenes=(
            "steam over a cup of oolong",
            "an afternoon tea ceremony",
            "leaves steeping slowly",
        ),
    ),
    Motif(
        nouns=("rose", "watering can", "tulip", "greenhouse", "sunflower", "bumblebee"),
        scenes=("petals opening in May", "a flower bed in full bloom", "seedlings in neat rows"),
    ),
    Motif(
        nouns=("parrot", "owl", "hummingbird", "flamingo", "swallow", "bird's nest"),
        scenes=("feathers and a dawn chorus", "a flock turning south", "wings over the reeds"),
    ),
    Motif(
        nouns=("kitten", "tabby cat", "ball of wool", "sleeping cat", "cat's paw", "whiskered tom"),
        scenes=("a cat purring on the blanket", "paws chasing yarn", "a long feline nap"),
    ),
    Motif(
        nouns=("saxophone", "trumpet", "double bass", "drum kit", "jazz singer", "grand piano"),
        scenes=(
            "a jazz club after midnight",
            "a swinging horn section",
            "the solo before the coda",
        ),
    ),
    Motif(
        nouns=("racing bicycle", "bike chain", "cyclist", "saddle", "tandem", "velodrome"),
        scenes=("the peloton on a climb", "pedalling down a country lane", "a sprint to the line"),
    ),
    Motif(
        nouns=("steam engine", "railway station", "tram", "sleeper train", "signal box", "tunnel"),
        scenes=(
            "a whistle on the platform",
            "rails through the valley",
            "the night express leaving",
        ),
    ),
    Motif(
        nouns=("open book", "fountain pen", "library ladder", "inkwell", "bookworm", "typewriter"),
        scenes=("pages turning in a library", "a novel that will not be put down", "poems by lamp"),
    ),
    Motif(
        nouns=(
            "film camera",
            "clapperboard",
            "film reel",
            "movie star",
            "projector",
            "popcorn box",
        ),
        scenes=("the hush before the film begins", "a matinee in an old cinema", "a silent movie"),
    ),
    Motif(
        nouns=("snowman", "sledge", "ice skate", "snowflake", "polar bear", "ski jump"),
        scenes=(
            "fresh snow on a January morning",
            "skating on the frozen lake",
            "icicles and frost",
        ),
    ),
    Motif(
        nouns=("cactus", "camel", "sand dune", "scorpion", "oasis palm", "desert tent"),
        scenes=("a caravan crossing the dunes", "heat above the sand", "night in the desert"),
    ),
    Motif(
        nouns=("acrobat", "circus tent", "juggler", "trapeze", "clown", "carousel horse"),
        scenes=("a drum roll under the big top", "the ringmaster's bow", "a leap from the trapeze"),
    ),
    Motif(
        nouns=("chess queen", "knight piece", "chessboard", "rook", "chess clock", "checkmate"),
        scenes=("an opening gambit", "a long endgame by the clock", "a grandmaster thinking"),
    ),
    Motif(
        nouns=("stegosaurus", "fossil", "tyrannosaurus", "ammonite", "raptor claw", "dinosaur egg"),
        scenes=(
            "a dig in Jurassic rock",
            "footprints of a giant reptile",
            "bones in a museum hall",
        ),
    ),
    Motif(
        nouns=(
            "castle tower",
            "dragon",
            "drawbridge",
            "knight's helmet",
            "crown",
            "jousting horse",
        ),
        scenes=("a tournament below the castle", "banners on the keep", "a medieval feast"),
    ),
)

MATERIALS = (
    ("walnut", "oak wood", "carved birch", "solid beech"),
    ("stoneware", "porcelain", "glazed clay", "terracotta"),
    ("brass", "copper", "cast iron", "pewter"),
    ("linen", "felted wool", "quilted cotton", "embroidered canvas"),
    ("blown glass", "crystal", "pressed glass", "leaded glass"),
)

MOODS = (
    ("playful", "cheerful", "funny", "merry"),
    ("calm", "quiet", "serene", "peaceful"),
    ("vintage", "nostalgic", "old-fashioned", "antique-style"),
    ("elegant", "refined", "graceful", "sophisticated"),
)

TITLES = (
    "{mood} {material} {noun}",
    "{noun} in {material}, {mood}",
    "{mood} {noun} of {material}",
    "{material} {noun} and {other}",
    "{noun} with {other}, {mood} {material}",
    "the {mood} {noun}, {material}",
)

OPENINGS = (
    "The {noun} brings {scene} to mind.",
    "Inspired by {scene}, with {a_noun} at its heart.",
    "For everyone who dreams of {scene}: {a_mood} {noun}.",
    "{a_noun} beside {a_other}, and one thinks of {scene}.",
    "{scene}, caught in one {mood} {noun}.",
    "Our designers had {scene} before their eyes when they drew this {noun}.",
)

WORKMANSHIP = (
    "Made of {material} in small batches.",
    "Each piece is worked by hand in {material}.",
    "The {material} is finished with care and ages well.",
    "{material}, sturdy enough for every day.",
    "We chose {material} for its weight and its touch.",
)

CLOSINGS = (
    (
        "Sure to make you laugh.",
        "A bit of fun for young and old.",
        "Because not everything has to be serious.",
    ),
    (
        "It brings stillness to a busy day.",
        "For moments of rest.",
        "Made for slow and silent evenings.",
    ),
    (
        "As if found in grandmother's attic.",
        "With the charm of days gone by.",
        "A memory of another century.",
    ),
    (
        "Understated luxury for connoisseurs.",
        "With clean lines and a noble air.",
        "Good taste without a loud word.",
    ),
)

DEPARTMENTS = (
    (
        "Kitchen",
        ("Countertop", "Dining Table", "Spice Shelf", "Fridge Door", "Breakfast Corner"),
    ),
    (
        "Living Room",
        ("Mantelpiece", "Coffee Table", "Bookcase", "Sofa Corner", "Feature Wall"),
    ),
    (
        "Bedroom",
        ("Bedside Table", "Dresser", "Headboard", "Reading Chair", "Jewellery Stand"),
    ),
    (
        "Bathroom",
        ("Basin Edge", "Bath Shelf", "Mirror Frame", "Towel Rail", "Soap Corner"),
    ),
    (
        "Hallway",
        ("Key Rack", "Coat Hooks", "Shoe Bench", "Front Door", "Stair Landing"),
    ),
    (
        "Home Office",
        ("Desk", "Pinboard", "Monitor Stand", "Filing Shelf", "Pen Tray"),
    ),
    (
        "Children's Room",
        ("Toy Chest", "Night Light", "Play Table", "Cot Mobile", "Growth Chart"),
    ),
    (
        "Garden and Balcony",
        ("Plant Pots", "Patio Table", "Bird Table", "Fence Hanging", "Balcony Rail"),
    ),
)

BRANDS = (
    "Aldermoor",
    "Bramble & Finch",
    "Casa Ventura",
    "Dunmore Hall",
    "Elmsley",
    "Fjordlys",
    "Granit",
    "Hollis & Daughters",
    "Iversen",
    "Juniper Row",
    "Kestrel Works",
    "Lindqvist",
    "Maison Orme",
    "Northgate",
    "Old Mill Lane",
    "Pellow",
    "Quillon",
    "Rosenholm",
    "Saltbox",
    "Tamsin Grey",
)
