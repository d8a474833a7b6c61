"""What happens to the llamas: every plot is four steps, and every step can be told in several ways.

The words in braces are filled in by `training.stories`: `name he him his` are the llama, `friend animal` the
friend, who is introduced together with the animal, `thing spot food ...` come from the tables there. Each
trouble continues "One sunny morning, Lola the llama ...", so it starts with a verb. Every word that may
follow the article "a" starts with a consonant.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Plot:
    """One kind of story; a telling takes one template of each step."""

    weather: tuple[str, ...]
    daytimes: tuple[str, ...] = ("morning", "afternoon", "day")
    troubles: tuple[str, ...]
    talks: tuple[str, ...]
    turns: tuple[str, ...]
    endings: tuple[str, ...]


FAIR = ("sunny", "bright", "warm", "fine", "golden")
ANY = (*FAIR, "cloudy", "windy", "misty", "cool", "quiet")

LOST = Plot(
    weather=ANY,
    troubles=(
        "could not find {his} {color} {thing}. {He} looked behind the door and under the bed.",
        "woke up and saw that {his} {color} {thing} was gone.",
        "lost {his} {color} {thing} in the tall grass.",
    ),
    talks=(
        '"Have you seen my {thing}?" {he} asked {friend} the {animal}. '
        '"No," said {friend}, "but I will help you look."',
        '{He} met a {animal} named {friend}. "I lost my {thing}," said {name}. '
        '"Do not worry," said {friend}. "We will find it."',
    ),
    turns=(
        "They looked {spot} and {second_spot}. At last they found the {color} {thing} {third_spot}.",
        '{friend} looked {spot}, and {name} looked {second_spot}. "Here it is!" called {friend}.',
        "Then they heard a soft peep. A baby bird was sleeping in the {color} {thing}!",
    ),
    endings=(
        "{name} was so happy that {he} danced all the way home.",
        '"Thank you, {friend}," said {name}. "You are a true friend."',
        "{name} put the {thing} in a safe place and never lost it again.",
    ),
)

HUNGER = Plot(
    weather=ANY,
    troubles=(
        "was very hungry, but there was no food left at home.",
        "opened the kitchen door and saw that all the {food} were gone.",
        "wanted to eat {food}, but the basket was empty.",
    ),
    talks=(
        '"My tummy is rumbling," said {name}. "Come with me," said {friend} the {animal}. '
        '"I have {number} {food}, and we can share them."',
        '{He} knocked on the door of {friend} the {animal}. "May I have some {food}, please?" asked {name}. '
        '"Of course," said {friend}.',
    ),
    turns=(
        "They sat down under a tree and ate {number} {food}.",
        "They washed the {food}, cut them into small pieces, and baked a warm pie.",
        "They filled a bowl with {number} {food} and ate until they were full.",
    ),
    endings=(
        '"Food tastes better when we share it," said {name}.',
        "Soon {name} was full and very happy.",
        "The next day, {name} gave {friend} {number} {food} to say thank you.",
    ),
)

KITE = Plot(
    weather=("windy", "breezy", "bright", "cool"),
    troubles=(
        "was playing with a {color} {toy} when the wind blew it into a tall tree.",
        "saw that {his} {color} {toy} was stuck at the top of a tree.",
        "let go of {his} {color} {toy}, and it flew into a tree.",
    ),
    talks=(
        '"Oh no!" said {name}. "I cannot climb." "I can help you," said {friend} the {animal}.',
        "{He} jumped and jumped, but {he} could not reach it. Then {friend} the {animal} came by. "
        '"Let me stand on your back," said {friend}.',
    ),
    turns=(
        "{friend} stood on the back of {name}, and together they were tall enough to reach the {toy}.",
        "They shook the tree {number} times, and the {color} {toy} fell down.",
        "They found a long stick and pushed the {toy} out of the tree.",
    ),
    endings=(
        "They played with the {toy} until the sun went down.",
        '"We make a good team," said {friend}.',
        "{name} held on to the {toy} very tightly after that.",
    ),
)

RIVER = Plot(
    weather=ANY,
    troubles=(
        "wanted to cross the river, but the old bridge was broken.",
        "came to a wide river and did not know how to get to the other side.",
    ),
    talks=(
        '"The water is too deep for me," said {name}. "I know a way," said {friend} the {animal}. "Follow me."',
        '{friend} the {animal} was sitting on a stone. "Can you help me cross?" asked {name}. '
        '"Yes," said {friend}. "We can build a new bridge."',
    ),
    turns=(
        "They carried {number} logs to the river and put them side by side.",
        "They walked along the bank and found {number} flat stones in the water. Hop, hop, hop!",
        "They found a little {color} boat and rowed slowly to the other side.",
    ),
    endings=(
        "On the other side, there was a field full of sweet grass.",
        "After that, all the animals could cross the river safely.",
        '"That was fun," said {name}. "Let us do it again tomorrow."',
    ),
)

RAIN = Plot(
    weather=("rainy", "cloudy", "gray", "stormy"),
    troubles=(
        "was out in the field when it began to rain, and soon {his} wool was all wet.",
        "heard the thunder and was a little scared.",
    ),
    talks=(
        '"Come inside!" called {friend} the {animal}. "My house is warm and dry."',
        '"I do not like this rain," said {name}. "I have a big {color} umbrella," said {friend} the {animal}.'
        ' "There is room for two."',
    ),
    turns=(
        "They sat by the fire and drank hot tea while the rain fell on the roof.",
        "They told each other funny stories until the rain stopped.",
        "Soon the sun came out, and they saw a rainbow over the hills.",
    ),
    endings=(
        "{name} learned that a rainy day can be a happy day.",
        "Then they jumped in {number} puddles and laughed.",
        "{name} was warm, dry, and happy again.",
    ),
)

SNOW = Plot(
    weather=("snowy", "cold", "frosty", "white"),
    troubles=(
        "saw a little {animal} shivering in the snow. The name of the little {animal} was {friend}.",
        "heard a knock at the door. It was {friend} the {animal}, and {friend_he} was very cold.",
    ),
    talks=(
        '"I am so cold," said {friend}. "I have lots of wool," said {name}. "I will make you a {garment}."',
        '"Please come in," said {name}. "You need a warm {garment}."',
    ),
    turns=(
        "{name} took some of {his} softest wool and knitted a {color} {garment}.",
        "{name} worked for {number} hours and made a {color} {garment} out of wool.",
    ),
    endings=(
        "{friend} put on the {garment} and was not cold anymore.",
        "The {color} {garment} was soft and warm, and {friend} smiled.",
        '"This is the best {garment} in the world," said {friend}.',
    ),
)

BIRTHDAY = Plot(
    weather=FAIR,
    troubles=(
        "had a birthday, but nobody came to say hello.",
        "turned {number} years old, but {he} thought that all {his} friends had forgotten.",
    ),
    talks=(
        '"Come with me to the barn," said {friend} the {animal}. "I want to show you something."',
        '"Why are you sad?" asked {friend} the {animal}. "It is my birthday today," said {name}. {friend} only smiled.',
    ),
    turns=(
        '{name} opened the door of the barn. "Surprise!" shouted all the animals.',
        "In the barn, there was a big cake with {number} candles on it.",
    ),
    endings=(
        "They ate cake and danced until it was dark.",
        "{name} got a {color} {thing} as a present and was very happy.",
        "It was the best birthday that {name} ever had.",
    ),
)

STARS = Plot(
    weather=("clear", "quiet", "warm", "peaceful"),
    daytimes=("evening", "night"),
    troubles=(
        "could not sleep, so {he} went outside to count the stars.",
        "wanted to know how many stars were in the sky.",
    ),
    talks=(
        '{friend} the {animal} sat down next to {him}. "How many stars have you counted?" asked {friend}. '
        '"I have counted {count} stars," said {name}.',
        '"One, two, three," said {name}. "May I count with you?" asked {friend} the {animal}.',
    ),
    turns=(
        "They counted {count} stars, and then they saw a falling star.",
        "They counted and counted, and when they came to {count}, they began to yawn.",
    ),
    endings=(
        '"I wish that we will always be friends," said {name}.',
        "Soon they were both asleep under the stars.",
        '"The sky is so big," said {friend}, "but I am not afraid when you are here."',
    ),
)

GARDEN = Plot(
    weather=FAIR,
    troubles=(
        "planted {number} seeds in the garden, but nothing grew.",
        "wanted to grow {food}, but {his} garden was full of weeds.",
    ),
    talks=(
        '"A garden needs water and time," said {friend} the {animal}. "I will help you."',
        '"What should I do?" asked {name}. "You must wait and be kind to it," said {friend} the {animal}.',
    ),
    turns=(
        "Every day they gave the garden some water and sang to it.",
        "They pulled out the weeds and waited for {number} days.",
    ),
    endings=(
        "One day, they found {number} {color} flowers in the garden.",
        "At the end of the summer, there were enough {food} for the whole village.",
        "{name} learned that good things take time.",
    ),
)

NOISE = Plot(
    weather=("dark", "windy", "misty", "quiet"),
    daytimes=("evening", "night"),
    troubles=(
        "heard a strange noise in the old barn.",
        "saw two shining eyes in the dark and began to shake.",
    ),
    talks=(
        '"Who is there?" asked {name} in a small voice. Nobody answered.',
        '"I am afraid," said {name}. "Do not be afraid," said {friend} the {animal}. "We will look together."',
    ),
    turns=(
        "Slowly, {name} opened the door. It was only {friend} the {animal}, who was looking for {food}.",
        "They took a lamp and went inside. It was only a kitten with a {color} ball of wool.",
    ),
    endings=(
        "They all laughed, and {name} was not afraid anymore.",
        "{name} felt very brave.",
        '"Next time, please knock," said {name} with a smile.',
    ),
)

RACE = Plot(
    weather=FAIR,
    troubles=(
        "wanted to run in the big race, but {he} was very slow.",
        "read a sign that said: Big race today! {He} wanted to win the {color} ribbon.",
    ),
    talks=(
        '"You can do it," said {friend} the {animal}. "Just take one step at a time."',
        '"I will run with you," said {friend} the {animal}. "Then it will be more fun."',
    ),
    turns=(
        "{name} ran up the hill and down the hill, and {he} did not stop.",
        "Near the end, {friend} fell down. {name} stopped and helped {friend_him} get up.",
    ),
    endings=(
        "They crossed the line together, and everybody cheered.",
        "{name} came in last, but {he} was proud because {he} did not give up.",
        "{name} won the {color} ribbon and shared it with {friend}.",
    ),
)

MARKET = Plot(
    weather=ANY,
    troubles=(
        "had to carry {number} bags of wool to the market, but they were too heavy.",
        "was on the way to the market when a wheel fell off {his} cart.",
    ),
    talks=(
        '"Let me help you," said {friend} the {animal}. "I am small, but I am strong."',
        '{He} asked {friend} the {animal} for help. "If we work together, it will be easy," said {friend}.',
    ),
    turns=(
        "{friend} pulled and {name} pushed, and soon they were at the market.",
        "They tied everything together with a strong {color} rope and walked side by side.",
    ),
    endings=(
        "At the market, they sold the wool and bought {number} {food}.",
        "{name} gave {friend} a {color} {garment} to say thank you.",
        '"Many hands make light work," said {name}.',
    ),
)

SONG = Plot(
    weather=ANY,
    troubles=(
        "loved to sing, but {his} voice was so loud that the birds flew away.",
        "wanted to sing at the village party, but {he} was too shy.",
    ),
    talks=(
        '"I like your song," said {friend} the {animal}. "Will you teach it to me?"',
        '"Sing it softly," said {friend} the {animal}, "and I will play the drum."',
    ),
    turns=(
        "They practiced for {number} days in the old barn.",
        "They hummed a soft little song about the moon and the mountains.",
    ),
    endings=(
        "At the party, everybody clapped and asked for one more song.",
        "Even the birds came back to listen.",
        "{name} was not shy anymore.",
    ),
)

PLOTS = (LOST, HUNGER, KITE, RIVER, RAIN, SNOW, BIRTHDAY, STARS, GARDEN, NOISE, RACE, MARKET, SONG)
