"""Samples short stories from the teacher, with continuous batching.

Reads the teacher's folder (pack_teacher.py) and writes OUT/answers*.xz (teacher_answers.py). Every
row of a large batch holds one conversation at its own position. Prompts are fed token by token, and
a row whose conversation ends takes the next prompt at once. The tokens that were fed are logged,
and the rows cut into conversations afterwards. How many are sampled depends on the machine's speed.
"""

import argparse
import multiprocessing
import time

import numpy as np
import torch
import triton
from tokenizers import Tokenizer

import teacher_answers
from story_prompts import draw_prompts
from teacher_kernels import penalty_kernel, sample_kernel
from teacher_model import VOCABULARY, Teacher, load_weights

IM_START, IM_END = 1, 2  # tokens <|im_start|> and <|im_end|>
USER = (IM_START, 4093, 198)  # "<|im_start|>user\n"
ASSISTANT = (IM_START, 520, 9531, 198)  # "<|im_start|>assistant\n"
MAX_PROMPT_TOKENS = 112
STEPS_BETWEEN_COPIES = 64
STEPS_BETWEEN_LINES = 1024


class PromptPool:
    """Tokenized prompts on the device: tokens [prompts, MAX_PROMPT_TOKENS], lengths [prompts]."""

    def __init__(self, tokenizer, count, seed, device):
        encoded = [e.ids for e in tokenizer.encode_batch(draw_prompts(count, seed))]
        encoded = [ids for ids in encoded if len(ids) <= MAX_PROMPT_TOKENS]
        tokens = np.zeros((len(encoded), MAX_PROMPT_TOKENS), np.int32)
        for i, ids in enumerate(encoded):
            tokens[i, : len(ids)] = ids
        self.count = len(encoded)
        self.tokens = torch.from_numpy(tokens).to(device)
        self.lengths = torch.tensor([len(e) for e in encoded], dtype=torch.int32, device=device)


class Sampler:
    """The state of all rows, and one step of them.

    Tensors are changed in place, so that a CUDA graph can replay a step.
    """

    def __init__(self, teacher, pool, temperature, min_p, penalty):
        device = teacher.device
        rows = teacher.rows
        self.teacher = teacher
        self.pool = pool
        self.temperature = temperature
        self.min_p = min_p
        self.penalty = penalty
        self.rows = torch.arange(rows, device=device)
        self.prompt = torch.arange(rows, device=device)  # of each row
        self.position = torch.zeros(rows, dtype=torch.int64, device=device)
        self.next_prompt = torch.full((1,), rows, dtype=torch.int64, device=device)
        self.token = pool.tokens[self.prompt, 0].to(torch.int64)
        self.sampled = torch.empty(rows, dtype=torch.int64, device=device)
        self.steps = torch.zeros(1, dtype=torch.int32, device=device)
        self.history = torch.zeros(rows, teacher.slots, dtype=torch.int32, device=device)

    def restart(self):
        """Every row at its prompt's first token."""
        self.prompt.copy_(self.rows)
        self.position.zero_()
        self.next_prompt.fill_(self.teacher.rows)
        self.token.copy_(self.pool.tokens[self.prompt, 0].to(torch.int64))

    def step(self):
        logits = self.teacher.step(self.token, self.position)
        self.history[self.rows, self.position] = self.token.to(torch.int32)
        if self.teacher.use_kernels:
            self.sample_by_kernels(logits)
        else:
            self.sample(logits)
        self.advance()

    def advance(self):
        """Rows that ended take the next prompts; the others the next token, given or sampled."""
        prompt_length = self.pool.lengths[self.prompt]
        answered = (self.token == IM_END) & (self.position >= prompt_length)
        done = answered | (self.position >= self.teacher.slots - 1)
        order = torch.cumsum(done.to(torch.int64), 0)
        following = (self.next_prompt + order - 1) % self.pool.count
        self.prompt.copy_(torch.where(done, following, self.prompt))
        self.next_prompt.add_(order[-1:])
        at_start = torch.zeros_like(self.position)
        self.position.copy_(torch.where(done, at_start, self.position + 1))
        column = self.position.clamp(max=MAX_PROMPT_TOKENS - 1)
        of_prompt = self.pool.tokens[self.prompt, column].to(torch.int64)
        in_prompt = self.position < self.pool.lengths[self.prompt]
        self.token.copy_(torch.where(in_prompt, of_prompt, self.sampled))
        self.steps.add_(1)

    def sample_by_kernels(self, logits):
        rows, slots = self.teacher.rows, self.teacher.slots
        answer_start = self.pool.lengths[self.prompt]
        state = (self.history, self.position, answer_start)
        block = triton.next_power_of_2(slots)
        penalty_kernel[(rows,)](logits, *state, VOCABULARY, slots, self.penalty, block)
        log_min_p = float(np.log(self.min_p))
        sample_kernel[(rows,)](
            logits, self.steps, self.sampled, VOCABULARY, 1 / self.temperature, log_min_p, 4096
        )

    def sample(self, logits):
        """What the kernels do, in plain PyTorch."""
        answer_start = self.pool.lengths[self.prompt]
        for row in range(self.teacher.rows):
            position = int(self.position[row])
            history = self.history[row].tolist()
            first = int(answer_start[row])
            seen = list(set(history[first : position + 1]))
            logit = logits[row, seen]
            penalized = torch.where(logit > 0, logit / self.penalty, logit * self.penalty)
            logits[row, seen] = penalized
            last_three = history[position - 2 : position + 1]
            for i in range(first, position - 2):
                if history[i : i + 3] == last_three:
                    logits[row, history[i + 3]] = -1e30
        z = (logits - logits.max(-1, keepdim=True).values) / self.temperature
        z[z < np.log(self.min_p)] = -1e30
        self.sampled.copy_(torch.multinomial(z.softmax(-1), 1)[:, 0])


def check_kernels(weights, device, dtype):
    """Prints the largest difference of the kernels' logits from plain PyTorch's."""
    tokens = torch.randint(3, 40000, (12, 64), device=device)
    by_kernels = Teacher(weights, 64, 64, device, dtype, use_kernels=True)
    plain = Teacher(weights, 64, 64, device, dtype, use_kernels=False)
    for step in range(12):
        position = torch.full((64,), step, dtype=torch.int64, device=device)
        logits = by_kernels.step(tokens[step], position)
        expected = plain.step(tokens[step], position)
    difference = (logits - expected).abs().max().item()
    print(f"kernels against PyTorch: logits differ by {difference:.2g} of", end=" ")
    print(f"{expected.abs().max().item():.3g}", flush=True)


def capture(sampler):
    """-> a function that replays one step as a CUDA graph."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            sampler.step()
    torch.cuda.current_stream().wait_stream(stream)
    sampler.restart()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        sampler.step()
    return graph.replay


def run(sampler, step, seconds, max_steps):
    """-> the tokens fed, uint16 [steps, rows]."""
    teacher = sampler.teacher
    shape = (STEPS_BETWEEN_COPIES, teacher.rows)
    buffer = torch.zeros(shape, dtype=torch.int32, device=teacher.device)
    log = []
    steps = 0
    start = time.time()
    while time.time() - start < seconds and steps < max_steps:
        for i in range(STEPS_BETWEEN_COPIES):
            buffer[i].copy_(sampler.token)
            step()
        log.append(buffer.cpu().numpy().astype(np.uint16))
        steps += STEPS_BETWEEN_COPIES
        if steps % STEPS_BETWEEN_LINES == 0 or not teacher.use_kernels:
            rate = steps * teacher.rows / (time.time() - start)
            prompts = sampler.next_prompt.item()
            print(f"{steps} steps, {rate:.0f} tokens/s, {prompts} prompts used", flush=True)
    return np.concatenate(log)


def cut_row(tokens, least_tokens, least_varied):
    """-> the answers of at least `least_tokens`, first words included; whether each is varied."""
    starts = np.flatnonzero(tokens == IM_START)
    users = [i for i in starts if tuple(tokens[i : i + len(USER)]) == USER]
    assistants = [i for i in starts if tuple(tokens[i : i + len(ASSISTANT)]) == ASSISTANT]
    answers = []
    for user, end in zip(users, users[1:] + [len(tokens)]):
        inside = [i + len(ASSISTANT) for i in assistants if user < i < end]
        if len(inside) == 1 and end - inside[0] >= least_tokens:
            answers.append(tokens[inside[0] : end])
    return answers, [teacher_answers.is_varied(a.tolist(), least_varied) for a in answers]


def cut_rows(log, least_tokens, least_varied, workers):
    """log [steps, rows] -> the answers of all rows that are not repetitive."""
    jobs = [(row, least_tokens, least_varied) for row in np.ascontiguousarray(log.T)]
    with multiprocessing.get_context("fork").Pool(workers) as pool:
        cut = pool.starmap(cut_row, jobs, chunksize=16)
    answers = [answer for row, _ in cut for answer in row]
    varied = [flag for _, flags in cut for flag in flags]
    ended = sum(int(answer[-1] == IM_END) for answer in answers)
    print(f"{len(answers)} answers, {ended} ended by themselves, {sum(varied)} varied", flush=True)
    return [answer for answer, flag in zip(answers, varied) if flag]


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = parser.add_argument
    add("--teacher", default="teacher", help="folder of pack_teacher.py")
    add("--out", default="raw/2", help="folder to write")
    add("--seconds", type=float, default=105, help="of sampling")
    add("--max_steps", type=int, default=10**9, help="end after so many steps")
    add("--prompts", type=int, default=160000, help="prompts to draw; reused when all are used")
    add("--rows", type=int, default=4096, help="conversations at once")
    add("--max_tokens", type=int, default=352, help="of a conversation")
    add("--temperature", type=float, default=0.8)
    add("--min_p", type=float, default=0.1, help="least probability, relative to the largest")
    add("--repetition_penalty", type=float, default=1.03, help="of the answer's tokens")
    add("--least_tokens", type=int, default=36, help="of an answer")
    add("--least_varied", type=float, default=0.85, help="share of different four-grams")
    add("--seed", type=int, default=2, help="of the prompts")
    add("--workers", type=int, default=14, help="processes that cut the rows")
    add("--device", default="cuda", choices=("cuda", "cpu"), help="cpu: float32, very slow")
    return parser.parse_args()


def main():
    args = parse_arguments()
    gpu = args.device == "cuda"
    tokenizer = Tokenizer.from_file(f"{args.teacher}/tokenizer.json")
    pool = PromptPool(tokenizer, args.prompts, args.seed, args.device)
    print(f"{pool.count} prompts, mean length {pool.lengths.float().mean().item():.1f}", flush=True)
    dtype = torch.bfloat16 if gpu else torch.float32
    weights = load_weights(args.teacher, args.device, dtype)
    if gpu:
        check_kernels(weights, args.device, dtype)
    teacher = Teacher(weights, args.rows, args.max_tokens, args.device, dtype, use_kernels=gpu)
    sampler = Sampler(teacher, pool, args.temperature, args.min_p, args.repetition_penalty)
    step = capture(sampler) if gpu else sampler.step
    log = run(sampler, step, args.seconds, args.max_steps)
    print(f"{len(log)} steps, {log.size} tokens", flush=True)
    answers = cut_rows(log, args.least_tokens, args.least_varied, args.workers)
    if not answers:
        raise SystemExit("no answer is long and varied enough: sample for longer")
    teacher_answers.write_answers(answers, args.out)
    for i in range(6):
        sample = answers[i * 997 % len(answers)].tolist()
        print("----", tokenizer.decode(sample, skip_special_tokens=False))


if __name__ == "__main__":
    main()
