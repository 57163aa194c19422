"""A provider for the tests: `python provider aws` stands for hashicorp/aws, `python provider null` for hashicorp/null.

Terraform starts it and speaks the plugin protocol with it. It knows no AWS but a file: see world.py.
"""

import base64
import datetime
import os
import sys
import threading
from concurrent import futures

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from tf.gen import grpc_controller_pb2 as controller
from tf.gen import grpc_controller_pb2_grpc as controller_rpc
from tf.gen import grpc_stdio_pb2_grpc as stdio_rpc
from tf.gen import tfplugin_pb2_grpc as rpc

from servicer import Provider


class Controller(controller_rpc.GRPCControllerServicer):
    def __init__(self):
        self.stopped = threading.Event()

    def Shutdown(self, request, context):
        self.stopped.set()
        return controller.Empty()


class Stdio(stdio_rpc.GRPCStdioServicer):
    def StreamStdio(self, request, context):
        return iter(())


def certificate():
    """Terraform accepts no connection without one, and trusts the one that is in the first line of the output."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.timezone.utc)
    day = datetime.timedelta(days=1)
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), now - day, now + day)
    signed = (
        builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return private, signed.public_bytes(serialization.Encoding.PEM), signed.public_bytes(serialization.Encoding.DER)


def main(name):
    if "TF_PLUGIN_MAGIC_COOKIE" not in os.environ:
        sys.exit("this is a provider for Terraform, which starts it by itself")
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=10))
    ends = Controller()
    rpc.add_ProviderServicer_to_server(Provider(name), server)
    controller_rpc.add_GRPCControllerServicer_to_server(ends, server)
    stdio_rpc.add_GRPCStdioServicer_to_server(Stdio(), server)
    private, signed, plain = certificate()
    # Not a socket file, which would stay behind when Terraform ends the process.
    port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([(private, signed)]))
    server.start()
    # go-plugin's handshake: its own version, the protocol's, where, how, the certificate.
    print(f"1|6|tcp|127.0.0.1:{port}|grpc|{base64.b64encode(plain).decode().rstrip('=')}", flush=True)
    ends.stopped.wait()
    server.stop(grace=1).wait()


main(sys.argv[1])
