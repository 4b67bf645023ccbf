"""Words and sentences of the built-in generator: names, places, addresses, plots, careers.

All of it was written for this project. Blocks of sentences read like a page: an empty line starts the next
sentence of the text, `- ` starts one more way to say it, and `{fields}` are filled by `builtin.py`.
"""

from __future__ import annotations

from dataclasses import dataclass


def _beats(block: str) -> tuple[tuple[str, ...], ...]:
    """The sentences of a block in order, each with all its phrasings."""
    return tuple(
        tuple(" ".join(phrasing.split()) for phrasing in f"\n{beat}".split("\n- ")[1:])
        for beat in block.strip().split("\n\n")
    )


def _words(block: str) -> tuple[str, ...]:
    """The words of a block."""
    return tuple(block.split())


def _phrases(block: str) -> tuple[str, ...]:
    """The phrases of a block, separated by `;`."""
    return tuple(" ".join(phrase.split()) for phrase in block.split(";"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Plot:
    """A story: how many characters it names, its own fillings, its sentences, its (question, answer) pairs."""

    characters: int
    fillings: dict[str, tuple[str, ...]]
    beats: tuple[tuple[str, ...], ...]
    questions: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Career:
    """A profession with its article, what one studies for it, thesis topics, and deeds in the past tense."""

    profession: str
    field: str
    topics: tuple[str, ...]
    deeds: tuple[str, ...]


# Plain ASCII, because e-mail addresses are made of them.
WOMEN = _words("""
    Adela Agnes Aileen Alba Alida Amara Anneke Annika Anouk Ariadne Astrid Aurelia Beatrix Berit Bettina Bianca Brenna
    Bronwen Calista Carmen Cecily Celeste Clarissa Corinne Cosima Dagny Dalia Daphne Delphine Dorothea Edda Eleni Elin
    Elspeth Emilia Esme Estelle Eudora Fabiola Farida Fenella Fiona Flavia Freya Gemma Gerda Ginevra Greta Gudrun Hana
    Harriet Hedwig Helga Henrike Hester Ilona Imogen Ingrid Iolanthe Irena Isolde Ivana Jadwiga Johanna Josefa Judith
    Kalina Katya Kirsten Lavinia Leocadia Leonie Liesel Linnea Liv Ludmila Mabel Magda Mairead Malin Marguerite
    Mathilde Mirela Nadia Nerys Nora Odette Oksana Olympia Petra Philippa Priya Ragna Renata Rosalind Sabine Saskia
    Sidonie Signe Solveig Tamsin Thea Ursula Valeria Winifred Yasmin Zora""")
MEN = _words("""
    Ambrose Anselm Anton Arlo Arvid Augustin Barnaby Bastian Benedikt Bertil Bruno Caspar Cedric Clemens Conrad Cormac
    Cyril Damian Dario Desmond Dietrich Dmitri Edgar Edmund Elias Emeric Emil Erland Ernesto Espen Fabian Felix
    Ferdinand Fergus Florian Gaspard Gerard Gideon Gilles Goran Gunnar Gustav Hamish Hector Henrik Horace Hugo Ignace
    Ilya Ivo Jarek Jasper Joachim Jonas Jorgen Julius Kaspar Klaus Konrad Lambert Lars Laszlo Leander Lennart Leopold
    Lorenz Lucian Magnus Malachi Marek Matthias Milan Mirko Nestor Niall Nikolai Olaf Orlando Oskar Ottokar Pascal
    Piotr Quentin Rafael Ragnar Raimund Remy Rolf Rufus Rurik Sandor Seamus Sebald Silvan Stellan Tadeusz Tancred
    Theodor Tobias Torsten Ulrich Valentin Viktor Waldemar Wendel Zoltan""")
_LAST_STARTS = _words("""
    Abber Alder Ander Arken Bar Bellin Bran Brindle Cader Calder Carra Col Corrin Dar Del Dunna Ebber Eller Fanna Far
    Galla Garran Hallen Har Hessel Iver Jessa Kel Kerra Lor Maddo Mar Merri Nor Ollen Pellin Penna Quil Ran Ravel
    Sanda Ser Tam Tarran Thurla Val Vander Verri Wend Winna Yar Zell""")
_LAST_ENDS = _words("be beck cott dine gard kin lock lund mond more nick quist ric shaw sten tor vane well wick wright")

_PLACE_STARTS = _words("""
    Amber Apple Arrow Aspen Autumn Badger Barley Basil Beacon Bell Birch Bitter Black Blue Bracken Bram Briar Bright
    Bronze Brook Buck Candle Cherry Chestnut Cinder Clay Clover Cobble Copper Coral Corn Cot Crane Cress Crow Cuckoo
    Dapple Dawn Deer Dew Dove Drift Dun Dusk Eagle Ebon Edder Elder Elk Elm Ember Ever Falcon Fallow Fawn Feather Fen
    Fern Finch Flax Flint Fox Frost Garnet Gilder Glass Gold Goose Gorse Grain Gran Gray Green Grouse Gull Haw Hazel
    Heather Hedge Hemlock Heron Hollow Honey Horn Iron Ivy Jade Jasmin Juniper Kestrel King Lamb Lark Larch Laurel
    Lavender Leaf Lichen Lilac Lime Linden Linnet Long Maple Marble Marl Meadow Merle Mid Mill Mint Mist Moon Morrow
    Moss Mulberry Myrtle Nettle Night Oaken Oat Olive Onyx Opal Osprey Otter Owl Pearl Pebble Pepper Pine Plover Plum
    Poplar Quail Quarry Quartz Quill Rain Raven Reed Robin Rook Rowan Rush Rye Saffron Sage Salt Sand Sedge Shale
    Shell Silver Slate Snow Sorrel Spar Sparrow Star Stone Storm Sumac Swallow Swan Tallow Tansy Teal Tern Thistle
    Thorn Thrush Thyme Timber Umber Velvet Violet Walnut Weather Wheat Willow Winter Wolf Wren Yarrow Yew""")
_PLACE_ENDS = _words("""
    acre bank barrow bay borough bottom bourne bridge brow burn bury by cairn chapel church cliff combe corner cove
    croft cross dale dean den down edge end fall fell field fleet fold ford garth gate glen grange grove hall ham
    harbour haven head heath hill hithe holm hope hurst keep kirk knoll lake land lea leigh lock mere minster moor
    mount mouth ness nook park pass point pool port quay reach ridge rise row sands shaw shore side spring stead stow
    strand thorpe ton town vale view wade water well wharf wold wood worth wynd""")

# "Granridge" is fine, "Glassshore" is not.
LAST_NAMES = tuple(start + end for start in _LAST_STARTS for end in _LAST_ENDS if start[-1] != end[0])
PLACE_NAMES = tuple(start + end for start in _PLACE_STARTS for end in _PLACE_ENDS if start[-1] != end[0])

# ---------------------------------------------------------------------------------------------------------- bios

MONTHS = _words("January February March April May June July August September October November December")
US_STATES = _words(
    "AL AR AZ CA CO CT GA IA ID IL IN KS KY LA MA MD ME MI MN MO MT NC NE NH NM NY OH OK OR PA TN TX UT VA WA WI"
)
MAIL_HOSTS = _words("inkpost quickmail northletter bluepostbox dovemail papercrane parcelwing homepost")
STREETS = _phrases("""
    Abbey; Acorn; Anchor; Barn Owl; Bayberry; Beech Hollow; Bluebell; Boathouse; Bobcat; Brickyard; Buttercup; Canal;
    Cardinal; Chapel Hill; Cider Mill; Clearwater; Cottonwood; Creekside; Cypress; Dogwood; Eastern; Fairground;
    Fiddler; Foundry; Garden; Glenview; Hawthorn; Hickory; Highland; Hillcrest; Hummingbird; Inkwell; Jackrabbit;
    Kingfisher; Ladybird; Lakeshore; Lantern; Lighthouse; Locust; Lower Market; Magnolia; Meadowlark; Mockingbird;
    North Orchard; Old Ferry; Orchard; Paddock; Palmetto; Pheasant; Prairie; Quarry; Railway; Redwood; Ridgeline;
    Sawmill; Schoolhouse; Sequoia; South Harbor; Sunflower; Sycamore; Tamarack; Tannery; Upper Spring; Vineyard;
    Wagon; Walnut Grove; West Canyon; Whistler; Windmill; Woodpecker""")
STREET_KINDS = _words("Avenue Boulevard Court Drive Lane Place Road Street Terrace Way")
JOBS = _phrases("""
    a piano tuner; a school librarian; a marine engineer; a night-shift nurse; a tax adviser; a pastry chef; an
    optician; a roofing contractor; a court stenographer; a veterinary assistant; a freelance illustrator; a bus
    dispatcher; a wedding photographer; a land surveyor; a chemistry teacher; a claims adjuster; a cabinet maker; an
    air traffic controller; a physical therapist; a warehouse planner; a tour guide; a bicycle mechanic; a data
    analyst; a florist; a sound technician; an insurance broker; a swimming coach; a dental hygienist; a soil
    scientist; a crane operator; a hotel manager; a translator; a locksmith; an archivist; a youth worker; a brewer; a
    social worker; a glazier""")
BIO_HOBBIES = _phrases("""
    restoring old radios; long-distance cycling; growing orchids; amateur astronomy; choir singing; fly fishing;
    chess; baking sourdough; birdwatching; collecting maps; rock climbing; pottery; salsa dancing; model railways;
    quilting; bookbinding; kite making; crossword puzzles; playing the banjo; open-water swimming; woodcarving; stamp
    collecting""")

# How a biography may begin, and which facts that sentence already gives.
BIO_OPENINGS: tuple[tuple[tuple[str, ...], str], ...] = (
    (("birth",), "{name} was born on {birth} and works as {job}"),
    (("birth",), "Born on {birth}, {name} is {job} with a fondness for {hobby}"),
    (("birth",), "{name}, {job}, came into the world on {birth}"),
    (("birth",), "{name} is {job} whose date of birth is {birth}"),
    (("home",), "{name} is {job} who lives at {home}"),
    (("home",), "At {home} lives {name}, {job} who enjoys {hobby}"),
    (("birth", "home"), "{name}, {job} born on {birth}, resides at {home}"),
    (("birth", "home"), "Born on {birth}, {name} now makes {pos} home at {home} and earns {pos} living as {job}"),
    (("phone",), "{name}, {job}, can be called at {phone}"),
    (("email",), "{name} works as {job} and answers e-mail at {email}"),
    (("birth", "email"), "{name}, {job} whose birthday is {birth}, uses the e-mail address {email}"),
    (("birth", "phone"), "{name} was born on {birth}, works as {job} and takes calls at {phone}"),
)
BIO_CLAUSES = {
    "birth": (
        "{pos} date of birth is {birth}",
        "{sub} was born on {birth}",
        "{pos} birthday is {birth}",
        "{pos} passport gives {birth} as the date of birth",
    ),
    "ssn": (
        "{pos} Social Security number is {ssn}",
        "{sub} was issued the Social Security number {ssn}",
        "{pos} Social Security card shows the number {ssn}",
        "{sub} is registered with Social Security under {ssn}",
    ),
    "phone": (
        "{pos} phone number is {phone}",
        "{sub} can be reached by phone at {phone}",
        "anyone who wants to talk to {obj} can dial {phone}",
        "the best number for calling {obj} is {phone}",
    ),
    "email": (
        "{pos} e-mail address is {email}",
        "{sub} reads e-mail sent to {email}",
        "messages for {obj} go to {email}",
        "{sub} can be contacted by e-mail at {email}",
    ),
    "home": (
        "{pos} home address is {home}",
        "{sub} lives at {home}",
        "letters reach {obj} at {home}",
        "{sub} has settled at {home}",
    ),
}
BIO_JOINTS = {
    1: ("{0}",),
    2: ("{0}, and {1}", "{0}; {1}", "{0}, while {1}"),
    3: ("{0}; {1}; and {2}", "{0}; {1}, and {2}"),
}
# How four or three facts are spread over the sentences after the first.
BIO_GROUPS = {4: ((2, 2), (1, 3), (3, 1), (1, 1, 2), (1, 2, 1), (2, 1, 1)), 3: ((3,), (1, 2), (2, 1), (1, 1, 1))}
BIO_ASIDES = (
    "In {pos} spare time, {sub} enjoys {hobby}",
    "Away from work, {sub} is devoted to {hobby}",
    "Friends know {obj} for {pos} love of {hobby}",
    "Most weekends are given over to {hobby}",
)
# In the order qa0 .. qa4.
BIO_QUESTIONS = {
    "birth": ("On which date was {name} born?", "What is {name}'s date of birth?", "When was {name} born?"),
    "ssn": (
        "What is the Social Security number of {name}?",
        "Which Social Security number belongs to {name}?",
        "What Social Security number was {name} given?",
    ),
    "phone": (
        "What is the phone number of {name}?",
        "Which phone number reaches {name}?",
        "At what phone number can {name} be called?",
    ),
    "email": (
        "What is the e-mail address of {name}?",
        "Which e-mail address does {name} use?",
        "To which e-mail address can one write to {name}?",
    ),
    "home": ("What is {name}'s home address?", "Where does {name} live?", "At which address does {name} live?"),
}

# -------------------------------------------------------------------------------------------------------- novels

PLOT_FILLINGS = {
    "kind": _phrases("village; harbour town; market town; hill town; river town; fishing village; mining town"),
    "weather": _phrases("windless; rainy; bitterly cold; foggy; thundery; misty; mild; chilly; stormy; grey; sultry"),
    "season": _phrases("spring; early summer; midsummer; harvest time; late autumn; midwinter; the first thaw"),
    "trade": _phrases("""
        baker; clockmaker; beekeeper; weaver; schoolteacher; bookbinder; lamplighter; potter; cobbler; glassblower;
        ferry pilot; stonemason; miller; tailor; saddler; chandler; printer"""),
    "building": _phrases("""
        mill; chapel; customs house; schoolhouse; bathhouse; granary; theatre; bell tower; boathouse; post office;
        tannery; library; assembly hall; brewery; observatory"""),
    "crossing": _phrases(
        "drained canal; stone bridge; wooden footbridge; empty marketplace; railway cutting; long meadow; bowling green"
    ),
}
PLOTS = (
    Plot(
        characters=3,
        fillings={
            "thing": _phrases("""
                brass compass; silver thimble; music box; tin whistle; blue glass lantern; pocket telescope; jade
                button; painted fan; leather diary; bone flute; copper kettle; wooden puppet""")
        },
        beats=_beats("""
- On a {weather} morning in the {kind} of {place}, {A} found a {thing} half buried beneath the steps of the
  {building}.
- {A} had lived in the {kind} of {place} for barely a week when a {thing} turned up under a loose board in the
  {building}.
- Nobody in the {kind} of {place} could say how long the {thing} had been lying behind the {building} before {A}
  picked it up.

- {B}, the {trade} from across the square, turned pale at the sight of it and claimed that it had vanished in the
  great flood.
- It looked worthless, yet {B}, a {trade} with a long memory, knew it at once as something stolen many years before.
- Most people shrugged, but {B} the {trade} asked in a whisper where it had been hidden and would not let go of it.

- Their neighbour {C} advised them to say nothing, because a reward had once been promised that could set the whole
  street quarrelling.
- {C}, who had never met a secret that could not be sold, wanted to carry it to the dealers on the coast that same
  day.
- Only {C} made light of the matter, and proposed that they toss a coin for it and be done.

- Instead {a} waited until dark, walked over the {crossing} alone and left it on {b}'s windowsill, wrapped in a clean
  handkerchief.
- {a} heard everyone out, lay awake for one long night, and placed it in {b}'s hands before breakfast.
- After two days of doubt {a} took the path by the {crossing}, knocked at {b}'s door and returned it without a word.

- By {season} {b} was using it every day, and {c} swore to have been in favour of the idea from the start.
- {b} wept, then laughed, and {c} was sent for cake so that all three of them could mark the occasion.
- What {b} gave in return nobody learned, although {c} tried for years to find out."""),
        questions=(
            ("In the story set in {place}, who found the {thing}?", "A"),
            ("Which {trade} in {place} recognised the {thing}?", "B"),
            ("In which {kind} did {A} find a {thing}?", "place"),
        ),
    ),
    Plot(
        characters=2,
        fillings={
            "race": _phrases(
                "rowing race; kite contest; bread fair; cart race; singing match; diving match; chess final"
            ),
            "fault": _phrases(
                "a fever; a broken wrist; a swollen thumb; a wasp sting; a sprained ankle; a nosebleed; a bad oyster"
            ),
        },
        beats=_beats("""
- Every year at {season} the {kind} of {place} held its {race}, and every year {A} and {B} were rivals in it.
- No event in the {kind} of {place} mattered more than the {race}, and no two people cared about it more than {A} and
  {B}.
- {A} and {B} had been friends in the {kind} of {place} until the {race} taught them to count each other's victories.

- {a}, a {trade} by training, practised in secret behind the {building} and slept beside a list of every earlier
  mistake.
- For months {a} rose before dawn to train near the {building}, ignoring the customers who came looking for a {trade}.
- As the only {trade} for miles, {a} had little time to prepare and did so by candlelight in the {building}.

- {b} trusted in luck instead, and luck failed: on the very morning of the contest, {b_pos} chances were ruined by
  {fault}.
- {b} had won three times running, but this time {fault} spoiled everything an hour before the start.
- Just before the signal was given, {fault} put {b} out of the running, and the crowd along the {crossing} began to
  murmur.

- {a} could have won without trying, yet stepped back over the line and asked the judges to wait a full day.
- To the surprise of the judges, {a} refused to begin and sat down on the ground until the contest was postponed.
- Seeing this, {a} walked over to the judges and told them that a victory without {b} would be worth nothing.

- The next day it was {a} who won by a hair, and {b} who cheered the loudest.
- They met again a day later under a {weather} sky, {a} came first, and {b} carried the winner home.
- When at last they competed, {a} won, and the two of them shared the prize on the steps of the {building}."""),
        questions=(
            ("Who won the {race} in {place}?", "A"),
            ("Whose chances in the {race} of {place} were spoiled by {fault}?", "B"),
            ("Where were {A} and {B} rivals in the {race}?", "place"),
        ),
    ),
    Plot(
        characters=3,
        fillings={
            "message": _phrases("""
                letter without a stamp; map with one corner missing; telegram; sealed envelope; page of music; parcel
                tied with red string; postcard from the south; recipe in a strange hand""")
        },
        beats=_beats("""
- The {message} reached the {kind} of {place} on a {weather} evening, addressed to {A} in green ink.
- On a {weather} afternoon a stranger walked into the {kind} of {place}, handed {A} a {message} and left again.
- {A}, a {trade} in the {kind} of {place}, expected no news from anywhere until a {message} came through the door.

- It said that {B}, lost at sea eleven years ago, was alive and would be waiting by the {crossing} at {season}.
- Between its lines stood one plain fact: {B}, whom everybody believed dead, meant to come home at {season}.
- Whoever sent it knew things that only {B} could know, and {b} had not been seen since the fire in the {building}.

- {C} called it a cruel joke and begged {a} to burn it.
- {a} showed it to {C}, who read it twice, shook {c_pos} head and blamed bored children.
- "Somebody wants your savings," warned {C}, who had been {a}'s friend since their schooldays.

- All the same, {a} packed bread and a lamp, and spent three nights by the {crossing} in the cold.
- {a} went anyway, told nobody, and stood by the {crossing} until the whole street was asleep.
- But hope is stubborn, and {a} was at the {crossing} long before the appointed hour.

- On the last stroke of twelve a figure stepped out of the dark, and {b} asked whether there was any supper left.
- Then came the limping step that {a} would have known anywhere, and there stood {b}, older and thinner and smiling.
- When {b} finally appeared, carrying one small suitcase, {a} could only laugh.

- It was {c} who lit every lamp in the {building} that night, as an apology.
- {c}, ashamed of having doubted, baked until morning.
- Even {c} had to admit that some jokes turn out to be true."""),
        questions=(
            ("In the story set in {place}, who came home after everyone had believed otherwise?", "B"),
            ("Who received the {message} in {place}?", "A"),
            ("Who doubted the {message} that {A} received?", "C"),
            ("In which {kind} did {A} receive a {message}?", "place"),
        ),
    ),
    Plot(
        characters=4,
        fillings={
            "band": _phrases(
                "string quartet; troupe of players; search party; repair crew; secret club; marching band"
            ),
            "trouble": _phrases("""
                the river broke its banks; the great bell cracked; the well ran dry; the last ferry sank; wolves came
                down from the ridge; the roof of the school fell in; the harvest caught fire"""),
        },
        beats=_beats("""
- In the {kind} of {place}, {A}, {B}, {C} and {D} formed a {band} that nobody took seriously.
- The {band} of the {kind} of {place} had only four members: {A}, {B}, {C} and {D}.
- {A}, {B}, {C} and {D} grew up on the same street in the {kind} of {place}, and called themselves a {band} for fun.

- {a} made the plans, {b} kept the money in a jam jar, and the other two argued in the {building}.
- They met in the {building} on Fridays, where {a} did the talking and {b}, a {trade}, supplied the soup.
- Their meetings in the {building} ended in quarrels, mostly because {a} and {b} both wanted to lead.

- Then, at {season}, {trouble}, and people ran into the streets without knowing what to do.
- Everything changed on the {weather} night when {trouble}.
- They might have gone on like this for ever, had it not been for the day on which {trouble}.

- It was {c} who kept a cool head, rang the alarm and sent everyone across the {crossing} in good order.
- While others shouted, {c} climbed on a cart, gave each person one clear task and led the children over the
  {crossing}.
- Quiet {c}, of all people, took charge, and within the hour everybody was safe beyond the {crossing}.

- {d} stayed behind until dawn to look after the animals, and came back covered in mud and glory.
- {d} lost both shoes, saved the town records, and never stopped talking about it.
- Afterwards {d} wrote it all down, so that nobody would forget who had been brave."""),
        questions=(
            ("Who took charge in {place} when {trouble}?", "C"),
            ("Who was the fourth member of the {band} with {A}, {B} and {C}?", "D"),
            ("In which {kind} did {A}, {B}, {C} and {D} form a {band}?", "place"),
        ),
    ),
    Plot(
        characters=2,
        fillings={
            "craft": _phrases("""
                to mend nets; to play the cello; to read the stars; to bake with sea salt; to carve birds; to blow
                glass; to train falcons; to bind books; to make lenses; to brew cherry beer; to shoe horses""")
        },
        beats=_beats("""
- {A} was the last person in the {kind} of {place} who knew how {craft}, and wished to leave it at that.
- For forty years {A} had been the only one in the {kind} of {place} to understand how {craft}.
- Old {A} kept a workshop beside the {building} in the {kind} of {place}, and had sworn never to take another pupil.

- One {weather} morning {B} knocked, soaked to the skin, and asked to learn how {craft}.
- Then {B} arrived over the {crossing} with a single bag and the firm intention of learning how {craft}.
- {B}, the child of a {trade}, waited outside for five days before being allowed to ask the question: could one still
  learn how {craft}?

- {a} said no four times, and on the fifth handed over a broom.
- The answer was no, but {a} left the door open, and that was enough.
- {a} gave no answer except a heap of dirty tools and a nod towards the pump.

- All winter they worked side by side, until {b}'s hands knew what {a}'s had never been able to explain.
- {b} made every mistake there was, some of them twice, while {a} grumbled and secretly kept count of the successes.
- There was little talk between them, yet by {season} {b} could do with closed eyes what {a} did with glasses.

- Today the workshop belongs to {b}, and {a} sits by the window and finds fault with everything.
- On the day {b} finished a first piece without help, {a} hung up the apron and never put it on again.
- When strangers ask who is the best at it in the whole region, {a} points at {b}, and {b} points back at {a}."""),
        questions=(
            ("Who came to {A} to learn how {craft}?", "B"),
            ("In the story set in {place}, who taught {B} how {craft}?", "A"),
            ("In which {kind} did {B} learn how {craft}?", "place"),
        ),
    ),
    Plot(
        characters=4,
        fillings={
            "prize": _phrases("""
                pearl necklace; prize pumpkin; mayor's chain; wedding cake; stuffed owl; oil painting; golden
                weathercock; violin; first edition; ruby brooch; silver cup""")
        },
        beats=_beats("""
- When the {prize} disappeared from the {building}, the whole of {place} suspected {A}.
- There was a thief in the {kind} of {place}: somebody had taken the {prize} from the {building}, and {A} had the key.
- On a {weather} night the {prize} was stolen from the {building} in {place}, and by noon all fingers pointed at {A}.

- {B}, who wrote for the local newspaper, was not convinced and began to ask questions.
- Only {B}, a retired {trade}, believed in {a}'s innocence and set out to prove it.
- {a} turned for help to {B}, a {trade} known for noticing what others overlooked.

- {C} remembered a light by the {crossing}; nobody else had seen or heard a thing.
- A helpful witness was {C}, who had heard the squeak of a handcart near the {crossing} at two in the morning.
- From {C} came the first real clue: wet footprints that led away from the {crossing}.

- The trail ended in the cellar of {D}, where the {prize} stood wrapped in a tablecloth.
- In the end it was {D} who confessed, red to the ears, and fetched the {prize} from under the bed.
- Three days later {b} found the {prize} in a hen-house that belonged to {D}.

- It had been meant as a surprise for {season}, said {d}, and strangely enough it was the truth.
- {d} had only wanted to look at it for a while, and {a}, to general amazement, asked that no charges be brought.
- {a} accepted every apology, one by one, and asked {d} for a basket of eggs."""),
        questions=(
            ("Who took the {prize} from the {building} in {place}?", "D"),
            ("Who was wrongly suspected of stealing the {prize} in {place}?", "A"),
            ("Who investigated the theft of the {prize} in {place}?", "B"),
            ("Where was the {prize} stolen while {A} was under suspicion?", "place"),
        ),
    ),
)
CODAS = (
    "To this day, people in {place} tell the story whenever the evenings grow long.",
    "Years later {a} would still call it the best day that {place} had ever seen.",
    "Outside, the lamps of {place} went out one after another.",
    "Neither {a} nor {b} ever spoke of moving away from {place} again.",
    "{a} kept one small reminder of it on the shelf, right beside the clock.",
    "When {b} brought it up years later, {a} just smiled and put the kettle on.",
    "The mayor of {place} planted a pear tree in memory of it, and {b} waters it still.",
    "It was the last thing anyone in {place} had expected of {a}.",
    "Somewhere over {place} a gull laughed, and so, at last, did {a}.",
    "From then on {a} and {b} took their Sunday walks together.",
)

# ---------------------------------------------------------------------------------------------------------- wiki

_AWARD_STARTS = (
    "Amber Bronze Copper Crimson Crystal Emerald Golden Indigo Ivory Laurel Marble Northern Pearl Royal Sapphire"
)
_AWARD_MIDDLES = (
    "Anchor Anvil Beacon Compass Crane Crown Feather Harp Heron Key Lantern Lyre Quill Star Swan Torch Wheel"
)
AWARDS = tuple(
    f"{start} {middle} {kind}"
    for start in _AWARD_STARTS.split()
    for middle in _AWARD_MIDDLES.split()
    for kind in ("Award", "Medal", "Prize")
)
PARENTS = _phrases("""
    a signalman; a midwife; a sail maker; two schoolteachers; a country doctor; a tram driver; a pharmacist; a
    forester; a hotel cook; a seamstress; a quarry worker; an organist; a ship's carpenter; a dairy farmer; a notary;
    a bookseller""")
CAREERS = (
    Career(
        profession="a botanist",
        field="botany",
        topics=_phrases("alpine mosses; the pollination of sea holly; seed dormancy; parasitic orchids"),
        deeds=_phrases("""
            described more than ninety species of salt-marsh plants; founded the seed archive of {there}; proved that
            two rare gentians were a single species; wrote a field guide that went through eleven editions; replanted
            the burnt slopes above {there}"""),
    ),
    Career(
        profession="an architect",
        field="architecture",
        topics=_phrases("timber vaults; daylight in factories; floating foundations; the acoustics of stairwells"),
        deeds=_phrases("""
            designed the glass-roofed market hall of {there}; rebuilt the flooded opera house of {there}; drew up the
            first housing estate without corridors; turned a disused gasworks into a public bath; planned a library
            whose shelves also carry its roof"""),
    ),
    Career(
        profession="a composer",
        field="composition",
        topics=_phrases("bell tuning; counterpoint for brass; the folk songs of river boatmen; silence as a form"),
        deeds=_phrases("""
            wrote four operas for children's voices; set the shipping forecast to music for string orchestra; founded
            the summer festival of {there}; composed a symphony to be played on church bells; collected some two
            thousand lullabies from mountain villages"""),
    ),
    Career(
        profession="a physicist",
        field="physics",
        topics=_phrases("the freezing of droplets; friction in sand; slow light; vibrating membranes"),
        deeds=_phrases("""
            built the underground interferometer of {there}; measured the elasticity of spider silk at very low
            temperatures; explained why wet sand carries sound so far; developed a clock that loses one second in a
            century; discovered an unexpected symmetry in melting crystals"""),
    ),
    Career(
        profession="a marathon runner",
        field="sports science",
        topics=_phrases("breathing at altitude; recovery and sleep; running on ice; blood sugar over long distances"),
        deeds=_phrases("""
            won the {there} Marathon three times in a row; ran the length of the coastal railway in nine days; held
            the national record over fifty kilometres for sixteen years; completed a marathon in every month of a
            year; founded the first running club for the blind in {there}"""),
    ),
    Career(
        profession="an archaeologist",
        field="archaeology",
        topics=_phrases("early bronze casting; burial gardens; lost harbours; the trade in amber beads"),
        deeds=_phrases("""
            uncovered a sunken granary near {there}; deciphered the tally marks of the lake dwellers; led the first
            excavation of the terraced tombs; recovered a complete loom from a peat bog; opened the open-air museum of
            {there}"""),
    ),
    Career(
        profession="a novelist",
        field="literature",
        topics=_phrases("travellers' tales; unreliable letters; the ballads of sailors; maps in fiction"),
        deeds=_phrases("""
            published a trilogy about a family of lock-keepers; wrote a novel told by nine clocks; translated the epic
            of the salt roads; turned the archives of {there} into a best-selling detective story; edited a literary
            review from a houseboat"""),
    ),
    Career(
        profession="a surgeon",
        field="medicine",
        topics=_phrases("the healing of tendons; hand injuries in weavers; anaesthesia for infants; bone grafts"),
        deeds=_phrases("""
            introduced keyhole surgery for broken wrists; set up the first floating clinic on the delta; invented a
            clamp that is used in operating theatres everywhere; headed the children's hospital of {there}; trained a
            whole generation of rural surgeons"""),
    ),
    Career(
        profession="a chess grandmaster",
        field="mathematics",
        topics=_phrases("tilings of the plane; games without draws; counting knight's tours; random walks"),
        deeds=_phrases("""
            won the {there} Masters without losing a game; revived a forgotten opening with the queen's bishop; played
            sixty opponents at once and beat fifty-two of them; coached the national team to two titles; wrote a
            classic treatise on rook endgames"""),
    ),
    Career(
        profession="an engineer",
        field="civil engineering",
        topics=_phrases("cable fatigue; tidal power; self-sealing dams; the sway of tall masts"),
        deeds=_phrases("""
            built the cable car of {there}; designed a bridge that folds like a fan; drained the marshes around
            {there}; developed a turbine for slow rivers; straightened the leaning water tower of {there}"""),
    ),
    Career(
        profession="a politician",
        field="law",
        topics=_phrases("fishing rights; the ownership of rivers; juries in small towns; tenancy law"),
        deeds=_phrases("""
            served two terms as mayor of {there}; wrote the law that made museums free of charge; negotiated the end
            of the long dockers' strike; introduced the four-day school week; abolished the bridge tolls of {there}"""),
    ),
    Career(
        profession="a film director",
        field="film",
        topics=_phrases("editing without cuts; sound in silent cinema; puppet animation; the colour of night scenes"),
        deeds=_phrases("""
            directed a documentary about the last lamplighters of {there}; shot an entire feature inside a lift; made
            the first full-length film in shadow theatre; founded the film school of {there}; filmed the same street
            every day for seven years"""),
    ),
)
AGES = _words("thirteen fourteen fifteen sixteen seventeen eighteen")
YEARS = _words("two three four five six seven eight nine ten eleven twelve")
WIKI_LEADS = (
    "{name} (born {born} in {place}) is {profession} who {deed}.",
    "{name}, born in {place} in {born}, is {profession} who {deed}.",
    "{name} (born {born}) is {profession} from {place} who {deed}.",
)
# Sentences start in lower case here; `builtin.py` capitalises whatever comes first.
WIKI_YOUTHS = (
    "the child of {parents}, {last} grew up in modest circumstances and took a first job at the age of {age}.",
    "{last} was raised by {parents} and first attracted notice at the age of {age}, in a contest for young talents.",
    "{pos} family moved house often, and {sub} had attended four schools by the age of {age}.",
    "brought up by {parents}, {last} left {place} at the age of {age} with one suitcase.",
    "{sub} was an only child, taught at home by {parents} until the age of {age}.",
)
WIKI_STUDIES = (
    "{sub} studied {field} at the University of {there} and graduated in {studied} with a thesis on {topic}.",
    "in {studied} {sub} completed a degree in {field} at the University of {there}; {pos} thesis dealt with {topic}.",
    "{sub} read {field} at the University of {there}, where {pos} thesis on {topic} was accepted in {studied}.",
)
WIKI_LATER = (
    "{sub} later {second}, which made {obj} known far beyond {place}.",
    "after {years} years abroad, {sub} {second}.",
    "not content with this, {sub} also {second}.",
    "from {later} onwards {sub} devoted {obj}self to a new task and {second}.",
    "to the surprise of many, {sub} then {second}.",
)
WIKI_AWARDS = (
    "for {pos} achievements {sub} received the {award} in {honoured}.",
    "the {award} was presented to {obj} in {honoured}.",
    "{last} was honoured with the {award} in {honoured} and gave the prize money to {pos} old school.",
    "in {honoured} {sub} became the first person from {place} to be given the {award}.",
)
WIKI_QUESTIONS = (
    ("Which award did {name} receive in {honoured}?", "award"),
    ("Which award was {name} from {place} given?", "award"),
    ("In which town was {name} born?", "place"),
    ("Where does {name} come from?", "place"),
    ("In which year was {name} born?", "born"),
    ("At which university did {name} study {field}?", "university"),
    ("Who is {profession} from {place} and a winner of the {award}?", "name"),
    ("Which graduate of the University of {there} wrote a thesis on {topic}?", "name"),
)
