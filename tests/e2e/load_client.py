"""A client process of test_load.py: `load_client.py FILE`, where FILE holds what it needs as JSON. It runs a round of streams
for each line on its standard input, and says on its standard output, before and after each call, what it does: who reads
that knows what was in flight when the process was killed."""

import json
import math
import os
import random
import sys
import threading
import time

import grpc

from protos import inference, inference_grpc
from requests_made import generation


def say(**line):
    os.write(1, (json.dumps(line) + "\n").encode())  # in one piece, whatever other threads say


class Streams:
    def __init__(self, plan, number):
        self.plan = plan
        self.end = time.monotonic() + plan["seconds"]
        options = [("grpc.use_local_subchannel_pool", 1)]
        self.channel = grpc.insecure_channel(plan["address"], options=options)
        self.stub = inference_grpc.InferenceServiceStub(self.channel)
        self.name = f"{plan['name']}-{number}"

    def run(self):
        threads = [threading.Thread(target=self.stream, args=(n,)) for n in range(self.plan["streams"])]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.channel.close()

    def stream(self, number):
        dice = random.Random(f"{self.plan['seed']} {self.name} {number}")
        count = 0
        while time.monotonic() < self.end:
            self.call(dice, f"{self.name}-{number}-{count}")
            count += 1

    def call(self, dice, request_id):
        # Short prompts more often, as many tokens of each.
        prompt = dice.choices(self.plan["prompts"], weights=[1 / len(p["ids"]) ** 0.75 for p in self.plan["prompts"]])[0]
        kind = dice.choices(["finish", "cancel", "deadline", "silent"], weights=[5, 4, 2, 1])[0]
        message = generation(prompt["ids"], max_new_tokens=self.plan["max_new_tokens"], request_id=request_id,
                             stopping={"ignore_eos": True}, response={"token_ids": True, "text": False})
        timeout = 10 ** dice.uniform(-3, 1) if kind == "deadline" else None
        say(event="start", id=request_id, kind=kind)
        call = self.stub.GenerateStream(inference.GenerateStreamRequest(input=message), timeout=timeout)
        timer = None
        if kind == "cancel":
            timer = threading.Timer(10 ** dice.uniform(-3, math.log10(self.plan["seconds"])), call.cancel)
            timer.start()
        tokens = []
        try:
            if kind == "silent":
                # Held without being read, to the end of the round or nearly so.
                threading.Event().wait(max(0, self.end - time.monotonic()) * dice.random())
                call.cancel()
            for event in call:
                tokens.extend(event.delta.token_ids)
            code = call.code().name
        except grpc.RpcError as error:
            code = error.code().name
        if timer:
            timer.cancel()
        right = tokens == prompt["answer"] if code == "OK" else tokens == prompt["answer"][:len(tokens)]
        say(event="end", id=request_id, kind=kind, code=code, right=right, prompt_tokens=len(prompt["ids"]))


def main():
    with open(sys.argv[1]) as file:
        plan = json.load(file)
    say(event="ready")
    for number, _ in enumerate(sys.stdin):
        Streams(plan, number).run()
        say(event="done")


if __name__ == "__main__":
    main()
