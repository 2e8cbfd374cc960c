"""The one internal exception of this room."""


class Refused(Exception):
    """Why something cannot be used, and what to do about it, told without its name.

    Raised deep inside, where only bytes are known. Whoever knows the file's name turns it into a `UserError`; none
    ever leaves this room.
    """
