"""A name server for tests: it knows a few names and remembers what it was asked."""

import socket
import struct
import threading

NO_SUCH_NAME = 3


class NameServer:
    """Answers at port 53 of an address of this machine's loopback that nothing else uses."""

    def __init__(self, names):
        self.names, self.asked = names, set()
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        for last in range(53, 153):
            self.address = f"127.53.53.{last}"
            try:
                self.socket.bind((self.address, 53))
                break
            except OSError:
                continue
        else:
            self.socket.close()
            raise OSError("no address of this machine's loopback has a free port 53")
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        while True:
            try:
                query, client = self.socket.recvfrom(512)
            except OSError:
                return
            self.socket.sendto(self.answer(query), client)

    def answer(self, query):
        """RFC 1035, section 4: the header, the question, and one address where the name is known."""
        labels, at = [], 12
        while query[at]:
            labels.append(query[at + 1 : at + 1 + query[at]].decode())
            at += 1 + query[at]
        name, [kind] = ".".join(labels).lower(), struct.unpack("!H", query[at + 1 : at + 3])
        self.asked.add(name)
        address = self.names.get(name)
        # A known name has no IPv6 address, which is no error.
        addresses = [socket.inet_aton(address)] if address and kind == 1 else []
        flags = 0x8180 | (0 if address else NO_SUCH_NAME)
        header = query[:2] + struct.pack("!HHHHH", flags, 1, len(addresses), 0, 0)
        records = b"".join(struct.pack("!HHHIH", 0xC00C, 1, 1, 1, 4) + item for item in addresses)
        return header + query[12 : at + 5] + records

    def close(self):
        self.socket.close()
