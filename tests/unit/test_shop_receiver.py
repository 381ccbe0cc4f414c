"""The example's mail receiver speaks SMTP as smtplib expects it."""

import asyncio
import smtplib
from collections.abc import AsyncIterator
from email.message import EmailMessage

import pytest

from examples.shop.smtp import FlakyReceiver


@pytest.fixture
async def receiver(request: pytest.FixtureRequest) -> AsyncIterator[FlakyReceiver]:
    receiver = FlakyReceiver(seed=7, **getattr(request, "param", {}))
    await receiver.start()
    yield receiver
    await receiver.stop()


def _mail(to: str, text: str = "hello") -> EmailMessage:
    mail = EmailMessage()
    mail["From"], mail["To"], mail["Subject"] = "shop@example.com", to, "order"
    mail.set_content(text)
    return mail


def _send(port: int, mail: EmailMessage) -> int:
    """The code of the answer, 250 when the mail was taken."""
    try:
        with smtplib.SMTP("127.0.0.1", port, timeout=5) as server:
            server.send_message(mail)
    except smtplib.SMTPRecipientsRefused as error:
        return next(iter(error.recipients.values()))[0]
    except smtplib.SMTPDataError as error:
        return error.smtp_code
    return 250


@pytest.mark.parametrize("receiver", [{"share": 0.0}], indirect=True)
async def test_a_mail_arrives_as_it_was_sent_dots_and_all(receiver: FlakyReceiver) -> None:
    text = ".\n..two dots\nümlaut\n"

    code = await asyncio.to_thread(_send, receiver.port, _mail("ada@example.org", text))

    assert code == 250
    (kept,) = receiver.mailbox.mails["ada@example.org"]
    payload = kept.get_payload(decode=True)
    assert isinstance(payload, bytes)
    assert payload.decode().replace("\r\n", "\n") == text


@pytest.mark.parametrize("receiver", [{"share": 1.0, "patience": 3}], indirect=True)
async def test_a_recipient_is_put_off_only_as_often_as_patience_says(receiver: FlakyReceiver) -> None:
    codes = [await asyncio.to_thread(_send, receiver.port, _mail("ada@example.org")) for _ in range(20)]

    assert codes.count(451) == receiver.mailbox.put_off["ada@example.org"] == 3
    assert codes[-1] == 250
    assert receiver.mailbox.received == 17


async def test_a_domain_that_does_not_exist_is_refused_for_good(receiver: FlakyReceiver) -> None:
    code = await asyncio.to_thread(_send, receiver.port, _mail("ada@nowhere.invalid"))

    assert code == 550
    assert receiver.mailbox.received == 0


@pytest.mark.parametrize("receiver", [{"share": 0.25}], indirect=True)
async def test_about_the_given_share_is_put_off(receiver: FlakyReceiver) -> None:
    mails = [_mail(f"customer.{number}@example.org") for number in range(200)]

    codes = await asyncio.gather(*(asyncio.to_thread(_send, receiver.port, mail) for mail in mails))

    assert 20 <= codes.count(451) <= 80
    assert codes.count(250) == receiver.mailbox.received == 200 - codes.count(451)


@pytest.mark.parametrize("line", [b"DATA\r\n", b"RCPT TO:<a@b>\r\n", b"JUMP\r\n"])
async def test_what_is_out_of_order_is_answered_and_not_obeyed(receiver: FlakyReceiver, line: bytes) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", receiver.port)
    await reader.readline()

    writer.write(line)

    assert (await reader.readline())[:1] == b"5"
    writer.close()
