"""The words of the drawn scenes: kinds of things, colours, backgrounds, and what no picture shows.

English and Chinese stand side by side, so that a caption is an exact function of a scene in both.
The order of `KINDS` is the order in which a caption names things: alphabetical, the coloured kinds
last.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Kind:
    """A kind of thing that can be drawn.

    Args:
        name: English singular; also the sprite's file name.
        plural: English plural.
        chinese: Chinese noun.
        measure: Chinese measure word.
        emoji: the character its sprite was cut from.
        is_animal: decides what may be said of it that no picture shows.
        is_coloured: whether it comes in every colour of `COLOURS`; captions then say which.
    """

    name: str
    plural: str
    chinese: str
    measure: str
    emoji: str
    is_animal: bool = False
    is_coloured: bool = False


@dataclass(frozen=True)
class Background:
    """Where a scene takes place.

    Args:
        name: identifies it.
        english: ends an English caption.
        chinese: begins a Chinese caption of what is there.
        statement: says of the picture that this is its background.
    """

    name: str
    english: str
    chinese: str
    statement: str


KINDS: tuple[Kind, ...] = (
    Kind("apple", "apples", "苹果", "个", "🍎"),
    Kind("banana", "bananas", "香蕉", "根", "🍌"),
    Kind("bell", "bells", "铃铛", "个", "🔔"),
    Kind("bicycle", "bicycles", "自行车", "辆", "🚲"),
    Kind("bird", "birds", "鸟", "只", "🐦", is_animal=True),
    Kind("boat", "boats", "帆船", "艘", "⛵"),
    Kind("bus", "buses", "公共汽车", "辆", "🚌"),
    Kind("butterfly", "butterflies", "蝴蝶", "只", "🦋", is_animal=True),
    Kind("cake", "cakes", "蛋糕", "个", "🎂"),
    Kind("carrot", "carrots", "胡萝卜", "根", "🥕"),
    Kind("cat", "cats", "猫", "只", "🐱", is_animal=True),
    Kind("clock", "clocks", "闹钟", "个", "⏰"),
    Kind("cow", "cows", "牛", "头", "🐮", is_animal=True),
    Kind("dog", "dogs", "狗", "只", "🐶", is_animal=True),
    Kind("duck", "ducks", "鸭子", "只", "🦆", is_animal=True),
    Kind("elephant", "elephants", "大象", "头", "🐘", is_animal=True),
    Kind("flower", "flowers", "花", "朵", "🌸"),
    Kind("frog", "frogs", "青蛙", "只", "🐸", is_animal=True),
    Kind("guitar", "guitars", "吉他", "把", "🎸"),
    Kind("hat", "hats", "帽子", "顶", "🎩"),
    Kind("house", "houses", "房子", "座", "🏠"),
    Kind("key", "keys", "钥匙", "把", "🔑"),
    Kind("mushroom", "mushrooms", "蘑菇", "个", "🍄"),
    Kind("penguin", "penguins", "企鹅", "只", "🐧", is_animal=True),
    Kind("pig", "pigs", "猪", "头", "🐷", is_animal=True),
    Kind("plane", "planes", "飞机", "架", "✈"),
    Kind("rocket", "rockets", "火箭", "枚", "🚀"),
    Kind("star", "stars", "星星", "颗", "⭐"),
    Kind("strawberry", "strawberries", "草莓", "颗", "🍓"),
    Kind("tree", "trees", "树", "棵", "🌳"),
    Kind("turtle", "turtles", "乌龟", "只", "🐢", is_animal=True),
    Kind("balloon", "balloons", "气球", "个", "🎈", is_coloured=True),
    Kind("book", "books", "书", "本", "📕", is_coloured=True),
    Kind("car", "cars", "汽车", "辆", "🚗", is_coloured=True),
    Kind("dress", "dresses", "连衣裙", "条", "👗", is_coloured=True),
    Kind("heart", "hearts", "爱心", "颗", "❤", is_coloured=True),
)

COLOURS: tuple[tuple[str, str], ...] = (
    ("red", "红色"),
    ("yellow", "黄色"),
    ("green", "绿色"),
    ("blue", "蓝色"),
)

COUNTS: tuple[tuple[str, str], ...] = (("a", "一"), ("two", "两"), ("three", "三"))

BACKGROUNDS: tuple[Background, ...] = (
    Background("grass", "on the grass", "草地上", "the ground is covered with grass"),
    Background("beach", "on the beach", "沙滩上", "the ground is covered with sand"),
    Background("snow", "in the snow", "雪地里", "the ground is covered with snow"),
    Background("night", "at night", "夜晚", "it is night"),
    Background("pink", "on a pink background", "粉色背景上", "the background is pink"),
    Background("purple", "on a purple background", "紫色背景上", "the background is purple"),
    Background("grey", "on a grey background", "灰色背景上", "the background is grey"),
    Background("orange", "on an orange background", "橙色背景上", "the background is orange"),
)

# What a drawn picture leaves open: it makes a hypothesis "maybe" when the thing is there.
ANIMAL_STATES: tuple[str, ...] = ("hungry", "tired", "friendly", "old")
THING_STATES: tuple[str, ...] = ("new", "expensive", "heavy", "lost")
