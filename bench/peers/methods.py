"""What the other side trains: transformers' model with PEFT's LoRA and DoRA, SBoRA as the paper writes it, PaCA, or all
weights. Each function turns a model's trained parameters on and returns nothing."""
import torch
from torch.nn import functional

TARGETS = ("q_proj", "k_proj", "v_proj", "up_proj", "down_proj")  # the paper's five


def lora(model, rank, dropout, **options):
    import peft
    config = peft.LoraConfig(r=rank, lora_alpha=2 * rank, lora_dropout=dropout, target_modules=list(TARGETS), bias="none",
                             **options)
    return peft.get_peft_model(model, config)


def dora(model, rank, dropout):
    return lora(model, rank, dropout, use_dora=True)


def sbora_dense(model, rank, dropout):
    """SBoRA-FA by its equations, on PEFT's layer: A is a frozen one-hot matrix and is multiplied as any other matrix."""
    model = lora(model, rank, dropout)
    draw = torch.Generator().manual_seed(1)
    for module in model.modules():
        if not hasattr(module, "lora_A"):
            continue
        a = module.lora_A["default"].weight  # [rank, in_features]
        columns = torch.randperm(a.shape[1], generator=draw)[:rank]
        one_hot = torch.zeros(a.shape)
        one_hot[torch.arange(rank), columns] = 1
        with torch.no_grad():
            a.copy_(one_hot)
        a.requires_grad_(False)
    return model


class PartialLinear(torch.autograd.Function):
    """A linear layer whose r columns are trained (arXiv 2503.01905): one product forward, one for the input's gradient,
    and of the input only those columns are kept."""

    @staticmethod
    def forward(ctx, x, weight, columns, idx):
        ctx.save_for_backward(x[..., idx], weight)
        return functional.linear(x, weight)

    @staticmethod
    def backward(ctx, g):
        kept, weight = ctx.saved_tensors
        dx = g.matmul(weight) if ctx.needs_input_grad[0] else None
        dcolumns = g.reshape(-1, g.shape[-1]).t().matmul(kept.reshape(-1, kept.shape[-1]))
        return dx, None, dcolumns, None


class PacaLinear(torch.nn.Module):
    """Writes the trained columns into the weight before its product, as the authors' layer does."""

    def __init__(self, base, rank, draw):
        super().__init__()
        if base.bias is not None:
            raise ValueError("a linear layer with a bias is not covered here")
        self.weight = base.weight.requires_grad_(False)
        self.register_buffer("idx", torch.randperm(base.in_features, generator=draw)[:rank].to(base.weight.device))
        self.columns = torch.nn.Parameter(self.weight.detach()[:, self.idx].float())

    def forward(self, x):
        with torch.no_grad():
            self.weight[:, self.idx] = self.columns.to(self.weight.dtype)
        return PartialLinear.apply(x, self.weight, self.columns.to(self.weight.dtype), self.idx)


def paca(model, rank, dropout):
    if dropout:
        raise ValueError("PaCA has no dropout")
    model.requires_grad_(False)
    draw = torch.Generator().manual_seed(1)
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if name in TARGETS:
                setattr(parent, name, PacaLinear(child, rank, draw))
    return model


def full(model, rank, dropout):
    if dropout:
        raise ValueError("full fine-tuning has no adapter, so no adapter dropout")
    return model.requires_grad_(True)


class LoraTwin(torch.nn.Module):
    """LoRA in plain PyTorch, where PEFT is not installed."""

    def __init__(self, base, rank, dropout):
        super().__init__()
        self.base, place = base, {"device": base.weight.device, "dtype": torch.float32}
        self.a = torch.nn.Parameter(torch.empty(rank, base.in_features, **place))
        self.b = torch.nn.Parameter(torch.zeros(base.out_features, rank, **place))
        torch.nn.init.kaiming_uniform_(self.a, a=5 ** 0.5)
        self.dropout = torch.nn.Dropout(dropout) if dropout else torch.nn.Identity()

    def forward(self, x):
        a, b = self.a.to(x.dtype), self.b.to(x.dtype)
        return self.base(x) + 2 * functional.linear(functional.linear(self.dropout(x), a), b)


def lora_twin(model, rank, dropout):
    model.requires_grad_(False)
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if name in TARGETS:
                setattr(parent, name, LoraTwin(child, rank, dropout))
    return model


METHODS = {"peft_lora": lora, "peft_dora": dora, "sbora_dense": sbora_dense, "paca": paca, "hf_full": full,
           "lora_twin": lora_twin}
