"""Recall documents: story text with planted facts, and questions about them. Shared by training and evaluation."""

import random
import numpy as np
import words as W

BOS, EOS, PAD = 0, 1, 2
LETTERS = 'ABCDEFGHJKLMNPQRSTUVWXYZ'


def art(w):
    return ('an ' if w[0] in 'aeiou' else 'a ') + w


def fact(R, kind):
    """-> key (unique within a document), statement, question, answer"""
    c = R.choice
    if kind == 'code':
        a, p, v = (
            c(W.ADJ),
            c(W.PLACES),
            ''.join(c('0123456789') for _ in range(R.choice((3, 4, 5, 5, 5, 6)))),
        )
        w = c(('code', 'code', 'secret number', 'key code'))
        s = c(
            (
                'The {w} of the {a} {p} is {v}.',
                'Remember that the {w} of the {a} {p} is {v}.',
                'By the way, the {w} of the {a} {p} is {v}.',
                'Note: the {w} of the {a} {p} is {v}.',
            )
        )
        return (kind, w, a, p), s.format(**locals()), f'What is the {w} of the {a} {p}?', v
    if kind == 'keeps':
        n, i, q, p = c(W.NAMES), c(W.ITEMS), c(W.SPOTS), c(W.PLACES)
        s = c(
            (
                '{n} keeps the {i} in the {q} of the {p}.',
                'The {i} of {n} is in the {q} of the {p}.',
                '{n} has hidden the {i} in the {q} of the {p}.',
            )
        )
        return (
            (kind, n, i),
            s.format(**locals()),
            c(('Where does {n} keep the {i}?', 'Where is the {i} of {n}?')).format(**locals()),
            f'in the {q} of the {p}',
        )
    if kind == 'colour':
        n, v = c(W.NAMES), c(W.COLOURS)
        return (
            (kind, n),
            c((f'The favourite colour of {n} is {v}.', f'{n} likes the colour {v} best.')),
            f'What is the favourite colour of {n}?',
            v,
        )
    if kind == 'food':
        n, v = c(W.NAMES), c(W.FOODS)
        return (
            (kind, n),
            c((f'The favourite food of {n} is {v}.', f'{n} likes to eat {v} most of all.')),
            f'What is the favourite food of {n}?',
            v,
        )
    if kind == 'pet':
        n, a, v = c(W.NAMES), c(W.PETS), c(W.PETNAMES)
        return (
            (kind, n, a),
            c((f'{n} has {art(a)} named {v}.', f'The {a} of {n} is called {v}.')),
            f'What is the name of the {a} of {n}?',
            v,
        )
    if kind == 'job':
        n, v = c(W.NAMES), c(W.JOBS)
        p, d = c(W.PLACES), c(W.ADJ)
        return (
            (kind, n),
            c((f'{n} works as {art(v)} at the {d} {p}.', f'{n} is {art(v)} by trade.')),
            f'What is the job of {n}?',
            v,
        )
    if kind == 'lives':
        n, d, p = c(W.NAMES), c(W.ADJ), c(W.PLACES)
        return (
            (kind, n),
            c((f'{n} lives next to the {d} {p}.', f'The house of {n} is next to the {d} {p}.')),
            f'Where does {n} live?',
            f'next to the {d} {p}',
        )
    if kind == 'count':
        d, p, t, v = c(W.ADJ), c(W.PLACES), c(W.THINGS), str(R.randint(2, 999))
        s = c(
            (
                'The number of {t} in the {d} {p} is {v}.',
                'In the {d} {p}, the number of {t} is {v}.',
                'Inside the {d} {p}, someone counted the {t}: {v}.',
            )
        )
        return (kind, d, p, t), s.format(**locals()), f'How many {t} are in the {d} {p}?', v
    if kind == 'locker':
        k, n = ''.join(c('0123456789') for _ in range(4)), c(W.NAMES)
        return (
            (kind, k),
            c((f'Locker {k} belongs to {n}.', f'The owner of locker {k} is {n}.')),
            f'Who owns locker {k}?',
            n,
        )
    if kind == 'password':
        a, p = c(W.ADJ), c(W.PLACES)
        v = '-'.join((c(W.ANIMALS), c(W.COLOURS), c(W.ITEMS)))
        return (
            (kind, a, p),
            c((f'The password of the {a} {p} is {v}.', f'To open the {a} {p}, say {v}.')),
            f'What is the password of the {a} {p}?',
            v,
        )
    if kind == 'record':
        k = c(LETTERS) + c('0123456789') + c(LETTERS)
        v = ''.join(c('0123456789') for _ in range(5))
        return (
            (kind, k),
            c((f'Record {k} has the value {v}.', f'The value of record {k} is {v}.')),
            f'What is the value of record {k}?',
            v,
        )
    if kind == 'birthday':
        n, v = c(W.NAMES), f'{R.randint(1, 28)} {c(W.MONTHS)}'
        return (
            (kind, n),
            c((f'The birthday of {n} is on {v}.', f'{n} was born on {v}.')),
            f'When is the birthday of {n}?',
            'on ' + v,
        )
    raise KeyError(kind)


KINDS = 'code code code keeps keeps colour food pet job lives count locker password record birthday'.split()


class Bank:
    """Story tokens (each story tokenized with a closing blank line), with the places where a fact can go in."""

    def __init__(s, ids, offs, tok):
        s.ids, s.tok = ids, tok
        s.fin = offs > 0
        s.offs = np.concatenate([[0], np.cumsum(np.abs(offs), dtype=np.int64)])
        V = tok.get_vocab_size()
        txt = [tok.decode([i], skip_special_tokens=False) for i in range(V)]
        s.para = np.array([t.endswith('\n\n') for t in txt])
        s.stop = np.array([t in ('.', '!', '?', '."', '!"', '?"') for t in txt])
        raw = [tok.id_to_token(i) for i in range(V)]
        s.space = np.array([r.startswith('Ġ') and len(r) > 1 for r in raw])
        s.strip = {
            i: tok.encode(txt[i].rstrip('\n'), add_special_tokens=False).ids
            for i in range(V)
            if txt[i].endswith('\n\n')
        }
        s.n = len(offs)

    def story(s, R):
        i = R.randrange(s.n)
        return s.ids[s.offs[i] : s.offs[i + 1]]


def story_row(R, bank, T):
    """Stories one after another: BOS story EOS BOS story EOS ... cut at T. A story that the teacher left unfinished gets no EOS."""
    out, w = [], []
    n = 0
    while n < T:
        i = R.randrange(bank.n)
        x = bank.ids[bank.offs[i] : bank.offs[i + 1]]
        e = bank.strip.get(int(x[-1]), [int(x[-1])])
        y = np.concatenate([[BOS], x[:-1], e, [EOS] if bank.fin[i] else []])
        out.append(y)
        n += len(y)
        z = np.ones(len(y))
        z[0] = 0
        w.append(z)
    return np.concatenate(out)[:T].astype(np.uint16), np.concatenate(w)[:T].astype(np.uint8)


def recall_row(R, bank, T, nfacts=None, nq=None, kinds=None, middle=True, ask=None):
    """One document of exactly T tokens. Weights: 1 text, 2 answer (the token is a target), 0 nothing."""
    enc = lambda t: bank.tok.encode(t, add_special_tokens=False).ids
    if nfacts is None:
        hi = max(4, T // 80)
        lo = 2
        nfacts = int(round(lo * (hi / lo) ** R.random()))
    if kinds is None:
        kinds = R.sample(sorted(set(KINDS)), R.choice((1, 2, 3, 4))) if R.random() < 0.5 else KINDS
    facts = {}
    tries = 0
    while len(facts) < nfacts and tries < 4 * nfacts + 20:
        k, s, q, a = fact(R, R.choice(kinds))
        facts.setdefault(k, (s, q, a))
        tries += 1
    facts = list(facts.values())
    if nq is None:
        nq = min(len(facts), R.choice((1, 2, 4, 6, 8, 12)) if T > 600 else R.choice((1, 2, 3, 4)))
    if ask is None:
        ask = R.sample(range(len(facts)), nq)
    n_mid = R.choice((0, 0, 1, 2)) if middle and T >= 1024 else 0
    tok_q = lambda f: (enc(f'Question: {f[1]}\nAnswer:'), enc(' ' + f[2]))
    tail, tw = [], []

    def put(f, dst, w):
        q, a = tok_q(f)
        dst += q + a + [EOS]
        w += [1] * len(q) + [2] * (len(a) + 1)

    nl = enc('\n\n')
    for n, i in enumerate(ask):
        if n:
            tail += nl
            tw += [1] * len(nl)
        put(facts[i], tail, tw)
    # pieces: facts in both forms; the filler is what is left
    fs = [(enc(' ' + f[0]), enc(f[0] + '\n\n')) for f in facts]
    room = T - 1 - len(tail) - sum(max(len(a), len(b)) for a, b in fs)
    mids = []
    for _ in range(n_mid):
        f = R.randrange(len(facts))
        m, mw = [], []
        put(facts[f], m, mw)
        m += nl
        mw += [1] * len(nl)
        if room - len(m) > T // 3:
            mids.append((f, m, mw))
            room -= len(m)
    if room < 60:
        return recall_row(R, bank, T, max(1, nfacts // 2), None, kinds, middle)
    fill = []
    n = 0
    while n < room:
        x = bank.story(R)
        fill.append(x)
        n += len(x)
    fill = np.concatenate(fill)[:room].astype(np.int64)
    last = np.flatnonzero(bank.para[fill])
    if len(last) == 0:
        return recall_row(R, bank, T, nfacts, nq, kinds, middle)
    fill = fill[: last[-1] + 1]
    para = np.flatnonzero(bank.para[fill]) + 1
    mid = np.flatnonzero(bank.stop[fill[:-1]] & bank.space[fill[1:]]) + 1
    ins = []
    where = []
    for i, (a, b) in enumerate(fs):
        if len(mid) and R.random() < 0.7:
            p = int(mid[R.randrange(len(mid))])
            t = a
        else:
            p = int(para[R.randrange(len(para))])
            t = b
        ins.append((p, 1, R.random(), t, [1] * len(t)))
        where.append(p)
    for f, m, mw in mids:
        ok = para[para > where[f]]
        if len(ok):
            ins.append((int(ok[R.randrange(len(ok))]), 2, R.random(), m, mw))
    ins.sort(key=lambda z: z[:3])
    out, w, c = [[BOS]], [[1]], 0
    for p, _, _, t, tw_ in ins:
        out += [fill[c:p], t]
        w += [np.ones(p - c, np.uint8), tw_]
        c = p
    out += [fill[c:], tail]
    w += [np.ones(len(fill) - c, np.uint8), tw]
    ids = np.concatenate(out)
    w = np.concatenate(w)
    pad = T - len(ids)
    assert pad >= 0, pad
    ids = np.concatenate([ids, np.full(pad, PAD)]).astype(np.uint16)
    w = np.concatenate([w, np.zeros(pad)]).astype(np.uint8)
    return ids, w, [facts[i] for i in ask]
