"""Little stories about llamas, the same for the same seed: `python -m training.stories --count 3`."""

import argparse
from collections.abc import Iterator
from itertools import islice
from random import Random

from training.plots import PLOTS, Plot

HEROES = {
    "she": ("Lola", "Luna", "Rosa", "Tina", "Nina", "Dolly", "Mia", "Clara"),
    "he": ("Pedro", "Carlos", "Bruno", "Pablo", "Oscar", "Leo", "Hugo", "Diego"),
}
FRIENDS = {
    "she": ("Ruby", "Daisy", "Lily", "Poppy", "Molly"),
    "he": ("Sam", "Ben", "Max", "Toby", "Finn", "Gus"),
}
OBJECT_FORM = {"she": "her", "he": "him"}
POSSESSIVE_FORM = {"she": "her", "he": "his"}

SPOTS = (
    "under the old bridge",
    "behind the barn",
    "in the tall grass",
    "near the well",
    "beside the garden gate",
    "under the apple tree",
)
ONE_OF = {
    "animal": ("fox", "goat", "rabbit", "sheep", "donkey", "mouse", "duck", "bear", "turtle", "cat"),
    "color": ("red", "blue", "green", "yellow", "purple", "pink"),
    "food": ("carrots", "apples", "berries", "pears", "plums", "cherries"),
    "garment": ("scarf", "sweater", "hat", "blanket"),
    "number": ("two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"),
    "place": (
        "on a green hill",
        "near a tall mountain",
        "in a quiet valley",
        "beside a blue lake",
        "on a little farm",
        "at the edge of a forest",
        "near a small village",
    ),
    "thing": ("hat", "scarf", "basket", "blanket", "boot"),
    "toy": ("kite", "ball", "balloon"),
    "trait": ("kind", "brave", "curious", "gentle", "happy", "clever", "little", "fluffy"),
    "wool": ("white", "brown", "black", "gray"),
}

INTRODUCTIONS = (
    "Once upon a time, there was a {trait} llama named {name}. {He} lived {place}.",
    "Once upon a time, a {trait} llama named {name} lived {place}.",
    "{name} the llama lived {place}. {He} was a very {trait} llama.",
    "There once was a {trait} llama named {name}, who lived {place}.",
    "High up in the mountains lived a {trait} llama. {His} name was {name}.",
    "{name} was a {trait} llama with a soft {wool} coat. {He} lived {place}.",
)
CLOSINGS = (
    "From that day on, {name} and {friend} were best friends.",
    "That night, {name} fell asleep with a smile.",
    "{name} and {friend} laughed and went home together.",
    "And they all lived happily ever after.",
)


def stories(seed: int) -> Iterator[str]:
    """Endless stories, each one paragraph of 60 to 170 tokens of the model's own tokenizer."""
    random = Random(seed)
    while True:
        yield tell(random.choice(PLOTS), random)


def tell(plot: Plot, random: Random) -> str:
    words = choose_words(plot, random)
    middle = (random.choice(step) for step in (plot.talks, plot.turns, plot.endings))
    templates = [choose_opening(plot, random), *middle, *choose_closing(random)]
    return " ".join(template.format_map(words) for template in templates)


def choose_opening(plot: Plot, random: Random) -> str:
    """How the story starts, up to its trouble: half of them introduce the llama first."""
    trouble = random.choice(plot.troubles)
    if random.random() < 0.5:
        return f"{random.choice(INTRODUCTIONS)} One {{weather}} {{daytime}}, {{name}} {trouble}"
    start = random.choice(("One {weather} {daytime}, {name} the llama", "{name} the llama"))
    return f"{start} {trouble}"


def choose_closing(random: Random) -> list[str]:
    return [random.choice(CLOSINGS)] if random.random() < 0.6 else []


def choose_words(plot: Plot, random: Random) -> dict[str, str]:
    """A word for every field of the templates, agreeing with each other within one story."""
    words = {field: random.choice(choices) for field, choices in ONE_OF.items()}
    words["spot"], words["second_spot"], words["third_spot"] = random.sample(SPOTS, 3)
    words["weather"], words["daytime"] = random.choice(plot.weather), random.choice(plot.daytimes)
    words["count"] = str(random.randint(11, 299))
    words |= choose_hero(random) | choose_friend(random)
    return words


def choose_hero(random: Random) -> dict[str, str]:
    he = random.choice(("she", "he"))
    his = POSSESSIVE_FORM[he]
    name = random.choice(HEROES[he])
    return {"name": name, "he": he, "him": OBJECT_FORM[he], "his": his, "He": he.title(), "His": his.title()}


def choose_friend(random: Random) -> dict[str, str]:
    he = random.choice(("she", "he"))
    return {"friend": random.choice(FRIENDS[he]), "friend_he": he, "friend_him": OBJECT_FORM[he]}


def main() -> None:
    """Print some stories, for reading."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=5, help="how many stories to print")
    parser.add_argument("--seed", type=int, default=1, help="the same seed gives the same stories")
    arguments = parser.parse_args()
    for story in islice(stories(arguments.seed), arguments.count):
        print(story, end="\n\n")


if __name__ == "__main__":
    main()
