"""Word lists of the story prompts and of the facts.

Reads and writes no files. Both draw from these lists by seed, so the order of the words is part of
the recipe.
"""

NAMES = """Mira Tom Oscar Lily Ben Anna Max Sara Leo Nina Sam Ruby Jack Ella Finn Ivy Noah Zoe Hugo
Clara Theo Maya Felix Rosa Owen Lena Milo Eva Toby Alma Otto Iris Emil Greta Paul Vera Hans Nora
Luca Tess Adam Cora Ralph Dina Simon Wanda Kofi Amara Yuki Priya Omar Leila Ravi Mei Diego Lucia
Ahmed Fatima Ivan Olga Sven Freya Pedro Carmen Ali Zara Jonas Bella Carl Daisy Edgar Flora Gus
Hazel Ike Julia Karl Lola Marcus Nelly Oliver Penny Quinn Rita Stan Tina Ursula Victor Willa Xena
Yara Zack Arthur Betty Colin Doris Ernie Fiona Gilbert Hilda Ian Joan""".split()
ANIMALS = """cat dog fox rabbit mouse bear owl duck frog hedgehog squirrel turtle goat sheep cow
horse pig hen crow swan otter beaver badger deer wolf lion tiger elephant monkey parrot penguin
seal whale crab snail bee ant butterfly spider mole donkey goose pony kitten puppy lamb robin
sparrow lizard""".split()
PEOPLE = """girl boy farmer baker sailor fisherman teacher shepherd gardener tailor miller king
queen prince princess knight witch wizard doctor painter musician clockmaker carpenter grandmother
grandfather postman librarian cook captain miner hunter potter weaver robot giant pirate shopkeeper
blacksmith beekeeper lighthouse-keeper""".split()
ADJECTIVES = """blue red green yellow silver golden purple white black brown pink grey orange old
new small tall wooden stone broken quiet hidden empty round crooked shiny dusty frozen sunny windy
foggy lonely rusty mossy bright dark narrow wide northern southern eastern western upper lower
striped painted little giant secret ancient velvet copper iron glass paper marble amber crimson
emerald""".split()
PLACES = """lighthouse mill bakery castle tower bridge cabin barn library school church garden
market station harbour palace cottage temple museum theatre workshop stable farm hotel inn chapel
fountain tunnel cave well gate cellar attic shop kitchen ship boat train wagon island forest meadow
lake mountain valley tavern forge observatory greenhouse warehouse windmill orchard vineyard quarry
hall arena clinic bank office factory""".split()
ITEMS = """violin key lantern map book ring clock hat coat umbrella compass drum flute teapot
basket mirror hammer ladder rope telescope diary letter coin crown sword shield kite doll ball
bicycle sled blanket pillow candle vase camera pen knife spoon bowl cup plate bell whistle trumpet
guitar necklace bracelet scarf glove boot button ribbon needle broom bucket shovel saw paintbrush
notebook stamp ticket medal feather shell""".split()
SPOTS = """attic cellar kitchen garden hall corner roof basement storeroom loft porch yard cupboard
hallway backroom staircase entrance office workshop shed""".split()
COLOURS = """red blue green yellow purple orange pink brown black white grey silver gold teal
violet crimson turquoise beige""".split()
FOODS = """apples pears bread cheese soup honey pancakes cherries grapes carrots potatoes rice
noodles cake cookies plums berries nuts eggs fish tomatoes mushrooms peaches lemons oranges
pumpkins beans corn waffles pudding""".split()
JOBS = """baker sailor teacher farmer doctor painter tailor miller carpenter cook gardener musician
clockmaker librarian postman captain potter weaver miner shepherd blacksmith fisherman nurse pilot
dancer singer writer plumber""".split()
PETS = """cat dog fox rabbit mouse owl duck frog hedgehog turtle goat pony parrot crow otter lizard
goose lamb""".split()
PET_NAMES = """Pip Biscuit Shadow Pepper Cookie Luna Rocky Daisy Ginger Patch Smoky Waffles Button
Coco Muffin Scout Bramble Pebble Whiskers Snowy Rusty Olive Peanut Mango Clover Maple Ziggy Bubbles
Nugget Pickle""".split()
THINGS = """apples stones candles books coins shells bottles feathers buttons cups marbles keys
letters stars bells roses eggs boxes nails ribbons pencils lamps plates chairs baskets""".split()
MONTHS = """January February March April May June July August September October November
December""".split()
