"""A street with neighbours, their things, and what goes on between them."""

from __future__ import annotations

from datetime import timedelta

from .extensions import db
from .models import Category, Comment, Loan, Member, Note, State, Thing, now

_MEMBERS = {
    "Ada": ("Mill Lane 4", "Retired joiner. If it has a blade, I probably have two of it."),
    "Bruno": ("Mill Lane 7", "Cooks for twenty when he meant to cook for four."),
    "Chidi": ("Station Road 12", "Out on the hills at weekends, tent or no tent."),
    "Dagny": ("Church Walk 1", "Grows pumpkins. Wins prizes. Lends barrows."),
    "Emre": ("Station Road 15", "New in the street, and owns nothing but books."),
}

_THINGS: list[tuple[str, Category, str, str]] = [
    (
        "Ada",
        Category.WORKSHOP,
        "Hammer drill",
        "800 watts, with a box of masonry bits.\n\n"
        "Wear something over your ears. The depth stop sticks: tap it.",
    ),
    ("Ada", Category.WORKSHOP, "Belt sander", "Comes with three belts; please bring a new one."),
    ("Ada", Category.WORKSHOP, "Workbench, folding", "Carries 200 kg and fits into a small car."),
    ("Ada", Category.GARDEN, "Hedge trimmer", "Electric, 60 cm. Mind the cable, I did not once."),
    ("Ada", Category.WORKSHOP, "Step ladder, 2.5 m", "Aluminium, light enough for one."),
    ("Bruno", Category.KITCHEN, "Pasta machine", "Cranked by hand. Never wash it with water!"),
    (
        "Bruno",
        Category.KITCHEN,
        "Raclette for eight",
        "With pans and scrapers. The cheese is yours.",
    ),
    ("Bruno", Category.KITCHEN, "Preserving pan, 28 litres", "Enough for all of the plums."),
    (
        "Bruno",
        Category.PARTY,
        "Beer benches, two sets",
        "Two tables, four benches, a little wobbly.",
    ),
    (
        "Bruno",
        Category.PARTY,
        "Fairy lights, 40 m",
        "Warm white, for outdoors. Two bulbs are dead.",
    ),
    ("Chidi", Category.OUTDOORS, "Tent for two", "2.1 kg, dry in any rain so far. Air it after."),
    ("Chidi", Category.OUTDOORS, "Camping stove", "Gas, with a windshield; cartridges are yours."),
    ("Chidi", Category.OUTDOORS, "Roof box", "320 litres. I help to put it on the car."),
    ("Chidi", Category.OUTDOORS, "Bicycle trailer", "For two children, or for a very large cake."),
    ("Dagny", Category.GARDEN, "Wheelbarrow", "Deep, with a tyre that has never been flat."),
    ("Dagny", Category.GARDEN, "Scarifier", "For the lawn in April. Book early, everybody asks."),
    ("Dagny", Category.GARDEN, "Apple press", "10 litres. You pay in juice: one bottle a day."),
    ("Dagny", Category.PARTY, "Punch bowl", "Glass, 6 litres, with twelve cups and a ladle."),
    ("Emre", Category.READING, "Field guide to birds", "The good one, with the maps."),
    ("Emre", Category.READING, "Board games, a box of them", "Twelve games, and all the dice."),
    ("Emre", Category.READING, "Repairing bicycles", "Grease on the pages is part of the charm."),
]

#: Thing, borrower, state, days since it was asked for, days from today until it is due, message.
_LOANS = [
    ("Hammer drill", "Bruno", State.RETURNED, 40, -33, "Shelves!"),
    ("Hammer drill", "Emre", State.ASKED, 0, 5, "I have bought a picture, and a wall."),
    ("Hammer drill", "Chidi", State.ASKED, 1, 3, "For a hook that must hold a bicycle."),
    ("Step ladder, 2.5 m", "Emre", State.LENT, 6, 2, "To change a bulb."),
    ("Belt sander", "Dagny", State.RETURNED, 70, -60, ""),
    ("Tent for two", "Ada", State.LENT, 20, -4, "A weekend by the lake."),
    ("Roof box", "Bruno", State.DECLINED, 12, -2, "Skiing"),
    ("Scarifier", "Ada", State.LENT, 2, 1, "It is April."),
    ("Pasta machine", "Ada", State.RETURNED, 30, -25, "My daughter is visiting."),
    ("Raclette for eight", "Chidi", State.ASKED, 0, 9, "There will be only seven of us."),
    ("Punch bowl", "Bruno", State.RETURNED, 100, -95, "New Year"),
]

#: Thing, author, days ago, text.
_COMMENTS = [
    ("Hammer drill", "Bruno", 33, "Goes through concrete like butter. The depth stop does stick."),
    ("Hammer drill", "Ada", 32, "Tap it.\n\nGently."),
    ("Pasta machine", "Ada", 24, "We made ravioli until two in the morning."),
    (
        "Apple press",
        "Chidi",
        50,
        "Eleven bottles! And https://en.wikipedia.org/wiki/Cider for later.",
    ),
]


def plant(password: str) -> list[str]:
    """Add the neighbours, the first of whom is a steward; return their names."""
    members = {}
    for number, (name, (street, about)) in enumerate(_MEMBERS.items()):
        member = Member(
            name=name,
            name_key=name.lower(),
            street=street,
            about=about,
            is_steward=number == 0,
            joined=now() - timedelta(days=200 - 30 * number),
        )
        member.password = password
        members[name] = member
    things = {}
    for number, (owner, category, name, description) in enumerate(_THINGS):
        things[name] = Thing(
            owner=members[owner],
            category=category,
            name=name,
            description=description,
            # Neither in the order of the owners nor by chance.
            added=now() - timedelta(hours=7 + 31 * (number * 8 % len(_THINGS))),
        )
    db.session.add_all([*members.values(), *things.values()])
    for name, borrower, state, asked, due, message in _LOANS:
        loan = Loan(
            thing=things[name],
            borrower=members[borrower],
            state=state,
            message=message,
            asked=now() - timedelta(days=asked, hours=3),
            due=now().date() + timedelta(days=due),
        )
        if state in (State.LENT, State.RETURNED):
            loan.lent = loan.asked + timedelta(hours=2)
        if state is State.RETURNED:
            loan.returned = now() + timedelta(days=due)
        db.session.add(loan)
        told = loan.thing.owner if state is State.ASKED else loan.borrower
        is_read = state is State.RETURNED
        db.session.add(
            Note(member=told, loan=loan, state=state, written=loan.asked, is_read=is_read)
        )
    for name, author, days, text in _COMMENTS:
        db.session.add(
            Comment(
                thing=things[name],
                author=members[author],
                text=text,
                written=now() - timedelta(days=days),
            )
        )
    members["Emre"].favourites.append(things["Apple press"])
    db.session.commit()
    return list(members)
