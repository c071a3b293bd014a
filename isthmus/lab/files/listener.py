"""A resource: answers a TCP port with the address it sees its client at, and notes every client and every ping.

    listener.py LOG [PORT]

Each line of LOG is `tcp ADDRESS` or `icmp ADDRESS`. Standard library only; the kernel itself answers the pings.
"""

import selectors
import socket
import sys
import threading


def serve(connection: socket.socket, address: str) -> None:
    """Say the client's address, then swallow what it sends until it closes."""
    with connection:
        connection.settimeout(60)
        try:
            connection.sendall(f"{address}\n".encode())
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(65536):
                pass
        except OSError:
            pass


def main() -> None:
    """Run until killed."""
    selector = selectors.DefaultSelector()
    ping = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
    selector.register(ping, selectors.EVENT_READ)
    if sys.argv[2:]:
        selector.register(socket.create_server(("", int(sys.argv[2])), backlog=128), selectors.EVENT_READ)
    with open(sys.argv[1], "a", buffering=1, encoding="ascii") as log:
        while True:
            for key, _ in selector.select():
                ready = key.fileobj
                assert isinstance(ready, socket.socket)
                if ready is ping:
                    packet, (address, _) = ping.recvfrom(65535)
                    if packet[(packet[0] & 15) * 4] == 8:  # an echo request, behind the IP header
                        log.write(f"icmp {address}\n")
                else:
                    connection, (address, _) = ready.accept()
                    log.write(f"tcp {address}\n")
                    threading.Thread(target=serve, args=(connection, address), daemon=True).start()


main()
