"""English words that a text encoder knows well, and captions are full of; none of them can call one subject alone."""

from __future__ import annotations

COMMON = frozenset(
    """
    a about above all an and animal anime art artist as asian at baby back background backpack bag bare beach
    beautiful bed behind below bench best between big bird black blonde blue boat body book bottle bow bowl boy bright
    brown building bus by can car cartoon cat chair character child city close closed clothes coat collar color colour
    computer couch cup dark day desk digital dog door down drawing dress eye eyes face female field film fire
    floor flower food forest four from front full fur garden girl glass glasses gold gray grass green grey hair hand
    hands hat head her high his holding home horse house illustration image in indoors inside is it its jacket
    kitchen lady landscape large leaf left light lighting little living long looking lying male man masterpiece men
    model moon mountain mouth near new night of old on one open orange outdoors outside over painting pants park people
    person photo photograph picture pink plant portrait pose purple quality rain realistic red right river road rock
    room rug sand scene sea shirt shoe shoes short shot side simple sitting skin skirt sky sleeping small smile smiling
    snow sofa solo some standing street style summer sun table tall teapot the them three to top toy tree two under up
    vase view walking wall water wearing white wide window winter with woman women wooden world yellow young
    """.split()  # a list of so many words is not read
)
