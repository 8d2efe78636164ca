import asyncio

from pipelines.pixel_room import PixelRoom


def test_no_more_pixels_are_held_than_there_is_room_for_and_all_get_their_turn():
    async def go():
        room, held, most, alone = PixelRoom(100), 0, 0, []

        async def hold(pixels):
            nonlocal held, most
            async with room.taken(pixels):
                held += min(pixels, 100)
                most = max(most, held)
                if pixels >= 100:
                    alone.append(held)
                await asyncio.sleep(0)
                await asyncio.sleep(0)
                held -= min(pixels, 100)

        await asyncio.gather(*(hold(pixels) for pixels in [10] * 30 + [60, 1000, 100] + [40] * 9))
        return held, most, alone, room.free

    assert asyncio.run(go()) == (0, 100, [100, 100], 100)


def test_room_of_who_fails_or_is_cancelled_is_given_back():
    async def go():
        room = PixelRoom(100)

        async def hold(seconds):
            async with room.taken(80):
                await asyncio.sleep(seconds)
                raise ValueError

        holding, waiting, last = (asyncio.create_task(hold(seconds)) for seconds in (60, 60, 0))
        await asyncio.sleep(0.01)
        waiting.cancel()
        holding.cancel()
        return [type(error) for error in await asyncio.gather(holding, waiting, last, return_exceptions=True)], room.free

    assert asyncio.run(go()) == ([asyncio.CancelledError, asyncio.CancelledError, ValueError], 100)


def test_small_ones_do_not_pass_a_large_one_for_ever():
    async def go():
        room, order = PixelRoom(100), []

        async def hold(name, pixels):
            async with room.taken(pixels):
                order.append(name)
                await asyncio.sleep(0.01)

        await asyncio.gather(hold("first", 60), hold("large", 100), *(hold("small", 10) for _ in range(20)))
        return order

    assert asyncio.run(go())[:2] == ["first", "large"]
