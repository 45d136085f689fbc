"""Any folder of people's photographs, swapped on the fly."""

from input_pipeline.people.source import PeopleFolder
from input_pipeline.people.swap import ATTACKS

__all__ = ['ATTACKS', 'PeopleFolder']
