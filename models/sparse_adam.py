"""sparse_adam.py > tests/graph/sparse_adam.inc: five steps of torch.optim.SparseAdam on a table, for tests/graph/test_optimizer.c.

Cotangents are those of a loss that is the sum of what was looked up times fixed numbers. Needs torch, which is no dependency of
the project.
"""
import torch

ROWS, WIDTH, LOOKUPS, STEPS = 6, 3, 4, 5
g = torch.Generator().manual_seed(1)
draw = lambda *shape: (torch.rand(*shape, generator=g) * 2 - 1).mul(1024).round().div(1024)
table = torch.nn.Embedding(ROWS, WIDTH, sparse=True)
with torch.no_grad():
    table.weight.copy_(draw(ROWS, WIDTH))
optimizer = torch.optim.SparseAdam(table.parameters(), lr=0.05, betas=(0.8, 0.95), eps=1e-3)


def row(numbers):
    return ", ".join(f"{x:.9g}" for x in numbers)


print(f"/* torch.optim.SparseAdam, lr 0.05, betas (0.8, 0.95), eps 1e-3: made by models/sparse_adam.py with torch {torch.__version__.split('+')[0]}. */")
print("static const float sparse_first[] = {%s};" % row(table.weight.flatten().tolist()))
print("static const struct {\n  int64_t index[%d];\n  float cotangent[%d], table[%d];\n} sparse_steps[] = {" % (LOOKUPS, LOOKUPS * WIDTH, ROWS * WIDTH))
for step in range(STEPS):
    index = torch.randint(ROWS - 1, (LOOKUPS,), generator=g)  # the last row is never looked up
    index[1] = index[0]
    cotangent = draw(LOOKUPS, WIDTH)
    optimizer.zero_grad()
    (table(index) * cotangent).sum().backward()
    optimizer.step()
    print("    {{%s},\n     {%s},\n     {%s}}," % (", ".join(str(i) for i in index.tolist()), row(cotangent.flatten().tolist()), row(table.weight.flatten().tolist())))
print("};")
